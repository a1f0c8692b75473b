from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_graphs import chain, conv, graph_of, joined, linear, residual, resnet20
from stair_devices import lead, noisy, stairs

from pipeline.search import (
    EMPTY,
    LatencyTable,
    MilpAllocator,
    Staircase,
    build_problem,
    candidate_widths,
    table_shapes,
)
from pipeline.search.importance import kept_shares
from pipeline.search.shapes import width_grid
from pipeline.search.staircase import MOST_REFINED, MOST_SCANNED, MOST_TABLE, MOST_WIDTHS


def one_group(width: int, *, behind: bool = False):
    """A convolution to the group; `behind` it another, whose input it is."""
    layers = [conv("a", 16, width, (), "a")]
    if behind:
        layers.append(conv("b", width, 32, ("a",)))
    return graph_of({"a": width}, layers)


def found(graph, clock, noise=0.003, **how):
    search = Staircase(graph)
    lead(search, clock, noise)
    return search.stairs(**how)


# --- where the edges are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [8, 16, 32])
def test_the_widths_are_the_right_edges_of_the_stairs(tile: int) -> None:
    assert found(one_group(64), stairs(tile))["a"].widths == tuple(range(tile, 65, tile))


@pytest.mark.parametrize(("width", "tile", "edges"), [(40, 16, (16, 32, 40)), (96, 20, (20, 40, 60, 80, 96))])
def test_edges_between_the_scanned_widths_are_found_by_asking_on(width: int, tile: int, edges) -> None:
    assert found(one_group(width), stairs(tile))["a"].widths == edges


@pytest.mark.parametrize("tile", [2, 4])
def test_of_stairs_finer_than_the_choice_every_width_is_still_an_edge(tile: int) -> None:
    widths = found(one_group(64), stairs(tile))["a"].widths
    assert len(widths) == MOST_WIDTHS or len(widths) >= 8
    assert all(width % tile == 0 for width in widths)
    assert max(right - left for left, right in pairwise(widths)) <= 12


def test_without_stairs_the_widths_are_about_evenly_spaced() -> None:
    widths = found(one_group(64), stairs(1))["a"].widths
    assert set(range(16, 65, 16)) <= set(widths)
    assert max(right - left for left, right in pairwise(widths)) <= 12


def test_the_stairs_of_all_layers_of_a_group_count_by_their_times() -> None:
    graph = one_group(64, behind=True)  # the second convolution takes twice as long
    assert found(graph, stairs(64, 16))["a"].widths == (16, 32, 48, 64)
    both = found(graph, stairs(32, 16))["a"]
    assert both.widths == (16, 32, 48, 64)
    sizes = dict(both.points)
    assert sizes[64] - sizes[48] < sizes[48] - sizes[32]  # at 32 both step


def test_a_width_that_is_slower_than_a_wider_one_is_never_chosen() -> None:
    def fast_on_multiples(shape):
        slower = 1.5 if shape.out_width % 16 else 1.0
        return stairs(8)(shape) * (slower if shape != EMPTY else 1.0)

    assert found(one_group(64), fast_on_multiples)["a"].widths == (16, 32, 48, 64)


@pytest.mark.parametrize("sigma", [0.005, 0.01, 0.02, 0.05])
@pytest.mark.parametrize("seed", range(5))
def test_noise_hides_no_stair_of_sixteen(sigma: float, seed: int) -> None:
    widths = found(one_group(64), noisy(stairs(16), sigma, seed), sigma)["a"].widths
    for edge in (16, 32, 48, 64):  # the edge itself, or a width on the same stair
        assert any(edge - 16 < width <= edge for width in widths), widths
    assert {16, 32, 48, 64} <= set(widths) or sigma > 0.01


def test_a_group_whose_steps_drown_in_noise_has_even_widths() -> None:
    graph = graph_of(
        {"a": 64}, (conv("a", 16, 64, (), "a"), conv("big", 256, 256), conv("b", 64, 32, ("a",)))
    )
    answers = found(graph, noisy(lambda shape: 1.0, 0.05), 0.05)
    assert answers["a"].even
    assert answers["a"].widths == width_grid(64)


def test_a_group_that_only_a_concatenation_sees_has_even_widths() -> None:
    graph = graph_of({"a": 16, "b": 16}, (conv("mix", 32, 8, ("a", "b")), linear("head", 8, 10)))
    assert found(graph, stairs(16))["a"].even


def test_of_too_many_edges_the_least_are_left_out_and_told() -> None:
    answer = found(one_group(64), stairs(8), most=4)["a"]
    assert len(answer.widths) == 4
    assert set(answer.widths) | set(answer.merged) == set(range(8, 65, 8))


def test_budgets_without_stairs_get_the_even_widths_as_well() -> None:
    answer = found(one_group(64), stairs(32), even_too=True)["a"]
    assert set(answer.widths) == {32, *width_grid(64)}
    assert len(found(one_group(64), stairs(32), most=4, even_too=True)["a"].widths) == 4


# --- what is asked ------------------------------------------------------------------------------------------------


def test_every_shape_is_asked_once_and_equal_blocks_share_theirs() -> None:
    asked = [shape for shapes in lead(Staircase(resnet20()), stairs(4)) for shape in shapes]
    assert len(asked) == len(set(asked))
    assert asked[0] == EMPTY
    assert len(asked) < 400


def test_three_rounds_and_no_more() -> None:
    for tile in (1, 3, 5, 7, 16):
        assert len(lead(Staircase(resnet20()), stairs(tile, tile))) <= 3


def test_between_equal_neighbours_nothing_is_asked() -> None:
    search = Staircase(one_group(64))
    asked = lead(search, stairs(64))
    assert len(asked) == 1
    assert search.stairs()["a"].even


def test_what_is_asked_follows_from_what_was_told() -> None:
    first, second = (lead(Staircase(resnet20()), noisy(stairs(8), 0.02)) for _ in range(2))
    assert first == second


def test_widths_fit_the_graph() -> None:
    search = Staircase(residual())
    lead(search, stairs(2))
    widths = search.widths(search.settled())
    even = candidate_widths(residual())
    assert widths.keys() == even.keys()
    assert {name: each[0] == 0 for name, each in widths.items()} == {
        name: each[0] == 0 for name, each in even.items()
    }


def test_a_graph_without_groups_asks_nothing_but_can_be_timed() -> None:
    search = Staircase(graph_of({}, [linear("only", 4, 2)]))
    lead(search, stairs())
    assert len(search.untimed(search.widths(search.settled()))) == 1


graphs = st.sampled_from([chain, joined, residual, resnet20])


@settings(max_examples=25, deadline=None)
@given(
    graph=graphs,
    tiles=st.tuples(st.integers(1, 32), st.integers(1, 32)),
    sigma=st.floats(0, 0.05),
    seed=st.integers(0, 99),
    even_too=st.booleans(),
)
def test_whatever_the_device_the_widths_can_be_searched_and_the_work_is_bounded(
    graph, tiles, sigma, seed, even_too
) -> None:
    model = graph()
    search = Staircase(model)
    rounds = lead(search, noisy(stairs(*tiles), sigma, seed), max(sigma, 0.003))
    answers = search.settled(even_too=even_too)
    widths = search.widths(answers)
    assert len(rounds) <= 3
    assert [len(shapes) for shapes in rounds] <= [MOST_SCANNED + 1, MOST_REFINED, MOST_REFINED]
    assert len(search.untimed(widths)) <= MOST_TABLE
    for name, answer in answers.items():
        full = model.group(name).width
        assert answer.widths[-1] == full
        assert list(answer.widths) == sorted(set(answer.widths))
        assert answer.widths[0] >= full / 8
        assert len(answer.widths) <= MOST_WIDTHS
        assert not set(answer.widths) & set(answer.merged)
    assert set(search.times) >= set(table_shapes(model, widths)) - set(search.untimed(widths))


@settings(max_examples=25, deadline=None)
@given(width=st.integers(1, 700), tile=st.integers(1, 64))
def test_any_width_of_a_single_group(width: int, tile: int) -> None:
    search = Staircase(one_group(width, behind=True))
    lead(search, stairs(tile, tile))
    (answer,) = search.stairs().values()
    assert answer.widths[-1] == width
    assert answer.widths[0] >= width / 8
    assert set(answer.widths) <= {point for point, _ in answer.points} or answer.even


# --- what it is good for ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tile", [5, 6, 12, 20])
def test_on_tiles_that_an_even_grid_misses_a_plan_keeps_more(tile: int) -> None:
    graph = graph_of(
        {"a": 96, "b": 80, "c": 64},
        (
            conv("a", 3, 96, (), "a"),
            conv("b", 96, 80, ("a",), "b"),
            conv("c", 80, 64, ("b",), "c"),
            linear("head", 64, 10, ("c",)),
        ),
    )
    search, clock = Staircase(graph), stairs(tile)
    lead(search, clock)
    grids = [search.widths(search.settled()), candidate_widths(graph)]
    assert sum(map(len, grids[0].values())) <= sum(map(len, grids[1].values())) + 8
    kept = []
    for grid in grids:
        table = LatencyTable.from_times(
            {shape: clock(shape) for shape in (EMPTY, *table_shapes(graph, grid))}
        )
        units = {name: np.ones(group) for name, group in graph.widths().items()}
        limit = {"latency": 0.5 * table.predict(graph, {})}
        problem = build_problem(graph, table, kept_shares(units, grid), limit, grid)
        kept.append(MilpAllocator(time_limit_s=10).allocate(problem).kept_importance)
    assert kept[0] > kept[1]
