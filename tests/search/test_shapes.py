from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import chain, graph_of, joined, linear, residual, resnet20

from pipeline.search import LayerShape, candidate_widths, table_shapes
from pipeline.search.shapes import GONE, shape_at, sized, width_grid


@given(width=st.integers(1, 4096), divisions=st.integers(1, 16))
def test_every_grid_ascends_to_the_full_width_from_at_least_an_eighth(width, divisions):
    grid = width_grid(width, divisions)
    assert grid[-1] == width
    assert list(grid) == sorted(set(grid))
    assert grid[0] >= max(1, width / 8)
    assert len(grid) <= 2 * divisions


@pytest.mark.parametrize(
    ("width", "grid"),
    [
        (1, (1,)),
        (3, (1, 2, 3)),
        (16, (2, 4, 6, 8, 10, 12, 14, 16)),
        (64, (8, 16, 24, 32, 40, 48, 56, 64)),
        (100, (16, 32, 48, 64, 80, 96, 100)),
        (256, (32, 64, 96, 128, 160, 192, 224, 256)),
    ],
)
def test_grids_step_in_tiles_where_the_width_allows(width, grid):
    assert width_grid(width) == grid


def test_candidate_widths_cover_every_group():
    assert set(candidate_widths(chain())) == {"a", "b"}


def test_a_layer_narrows_with_its_groups_and_a_depthwise_one_on_both_sides():
    graph = chain()
    shapes = {layer.name: shape_at(layer, {"a": 4, "b": 6}) for layer in graph.layers}
    assert (shapes["a"].in_width, shapes["a"].out_width) == (3, 4)
    assert (shapes["d"].in_width, shapes["d"].out_width, shapes["d"].groups) == (4, 4, 4)
    assert (shapes["b"].in_width, shapes["b"].out_width) == (4, 6)
    assert (shapes["head"].in_width, shapes["head"].out_width) == (24, 10)


def test_a_grouped_layer_loses_groups_where_these_are_the_units():
    grouped = replace(chain().layers[0], in_width=32, out_width=64, groups=8, in_groups=("a",), in_repeat=4)
    whole = replace(grouped, whole_groups=True)
    assert [sized(each, 16, None).groups for each in (grouped, whole)] == [8, 4]


def test_fixed_channels_of_a_concatenation_stay():
    graph = joined()
    mix, after = (shape_at(layer, {"a": 2, "b": 4, "c": 8}) for layer in graph.layers[2:4])
    assert (mix.in_width, mix.out_width, mix.groups) == (10, 10, 10)
    assert (after.in_width, after.out_width) == (10, 8)


def test_the_table_holds_each_shape_once_for_every_pair_of_neighbouring_widths():
    graph = chain()
    shapes = table_shapes(graph, {"a": (4, 16), "b": (6, 24)})
    assert len(shapes) == len(set(shapes)) == 2 + 2 + 4 + 2
    for widths in ({"a": one, "b": two} for one in (4, 16) for two in (6, 24)):
        assert {shape_at(layer, widths) for layer in graph.layers} <= set(shapes)


def test_equal_layers_share_their_shapes():
    graph = resnet20()
    shapes = table_shapes(graph, candidate_widths(graph))
    assert len(shapes) < 450  # 19 layers with up to 64 pairs each would be over a thousand


def test_a_layer_behind_several_groups_is_timed_at_its_narrowest_and_full_input_only():
    shapes = table_shapes(joined(), {"a": (2, 4, 8), "b": (4, 8, 16), "c": (4, 8)})
    behind = {
        (shape.in_width, shape.out_width) for shape in shapes if shape.groups == 1 and shape.in_width >= 10
    }
    assert behind == {(10, 4), (10, 8), (28, 4), (28, 8)}


def test_a_model_without_groups_has_the_shapes_it_has():
    graph = graph_of({}, [linear("only", 4, 2)])
    assert table_shapes(graph, {}) == (LayerShape("linear", 4, 2),)


def test_keys_tell_shapes_apart():
    graph = resnet20()
    shapes = table_shapes(graph, candidate_widths(graph))
    assert len({shape.key for shape in shapes}) == len(shapes)


def test_only_groups_with_a_block_may_be_left_out_altogether():
    assert candidate_widths(residual()) == {
        "trunk": width_grid(8),
        "inner": (0, *width_grid(6)),
        "wide": (0, *width_grid(24)),
    }


def test_a_table_needs_nothing_for_layers_that_are_gone():
    widths = {"trunk": (4, 8), "inner": (2, 6), "wide": (8, 24)}
    with_none = {name: choices if name == "trunk" else (0, *choices) for name, choices in widths.items()}
    assert table_shapes(residual(), with_none) == table_shapes(residual(), widths)


def test_every_layer_of_a_dropped_block_is_gone_also_those_on_the_stream_alone():
    graph = residual()
    shapes = {layer.name: shape_at(layer, {"trunk": 8, "inner": 6, "wide": 0}) for layer in graph.layers}
    assert {name for name, shape in shapes.items() if shape == GONE} == {"wide.d", "wide.a", "wide.b"}
