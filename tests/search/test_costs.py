from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from small_graphs import chain, graph_of, joined, residual, resnet20
from test_table import table_of

from pipeline.errors import InputError, ModelError
from pipeline.search import build_problem, model_peak_bytes, weight_bytes
from pipeline.search.importance import kept_shares

GRIDS = {
    chain: {"a": (4, 8, 16), "b": (6, 24)},
    joined: {"a": (2, 4, 8), "b": (4, 16), "c": (4, 8)},
    residual: {"trunk": (4, 8), "inner": (0, 2, 6), "wide": (0, 8, 24)},
}


def problem_of(graph, widths, limits=None):
    importance = {group.name: np.ones(group.width) for group in graph.groups}
    return build_problem(
        graph, table_of(graph, widths), kept_shares(importance, widths), limits or {}, widths
    )


@pytest.mark.parametrize("make", [chain, joined, residual])
def test_the_terms_say_what_table_and_graph_say_at_every_choice(make):
    graph, widths = make(), GRIDS[make]
    problem, table = problem_of(graph, widths), table_of(graph, widths)
    for positions in product(*(range(len(choices)) for choices in widths.values())):
        choice = dict(zip(widths, positions, strict=True))
        chosen = {name: widths[name][position] for name, position in choice.items()}
        assert problem.predicted(choice) == pytest.approx(
            {
                "latency": table.predict(graph, chosen),
                "file": weight_bytes(graph, chosen),
                "model_peak": model_peak_bytes(graph, chosen),
            }
        )


def test_weights_and_biases_count_four_bytes():
    conv_a, depthwise, conv_b, head = 16 * 27 + 16, 16 * 9 + 16, 24 * 16 * 9 + 24, 96 * 10 + 10
    assert weight_bytes(chain(), {}) == 4 * (conv_a + depthwise + conv_b + head)


def test_the_peak_is_the_weights_and_the_fullest_moment():
    assert model_peak_bytes(chain(), {}) == weight_bytes(chain(), {}) + 512 * 16
    narrow = {"a": 1, "b": 1}
    assert model_peak_bytes(chain(), narrow) == weight_bytes(chain(), narrow) + 768 + 256


def test_a_neighbour_costs_more_the_wider_both_are():
    latency = problem_of(chain(), GRIDS[chain]).rows[0]
    costs = latency.pairs["a", "b"]
    assert np.all(np.diff(costs, axis=0) > 0)
    assert np.all(np.diff(costs, axis=1) > 0)


def test_a_limit_on_something_unpredictable_is_refused():
    with pytest.raises(InputError, match="energy"):
        problem_of(chain(), GRIDS[chain], {"energy": 3.0})


def test_importance_of_the_wrong_size_is_refused():
    with pytest.raises(ModelError, match="'a'"):
        kept_shares({"a": np.ones(3)}, GRIDS[chain])


def test_equal_group_pairs_are_added_up():
    graph = resnet20()
    pairs = (
        problem_of(graph, {group.name: (group.width // 2, group.width) for group in graph.groups})
        .rows[0]
        .pairs
    )
    assert len(pairs) == 11  # each block's inside meets its trunk, and the first of a stage the trunk before


def test_a_depthwise_layer_behind_a_join_counts_each_channel_once():
    """Also when the graph names the output after one of the groups in front."""
    graph = joined()
    layers = list(graph.layers)
    layers[2] = replace(layers[2], out_group="a")
    named = graph_of(graph.widths(), layers)
    narrow = {"a": 2, "b": 4, "c": 4}
    assert weight_bytes(named, narrow) == weight_bytes(graph, narrow)
    problem = problem_of(named, GRIDS[joined])
    assert problem.predicted({"a": 0, "b": 0, "c": 0})["file"] == pytest.approx(weight_bytes(graph, narrow))


def test_a_layer_that_runs_twice_costs_time_twice_and_bytes_once():
    graph = chain()
    again = replace(graph.layers[1], name="d#2")
    twice = replace(graph, layers=(*graph.layers[:2], again, *graph.layers[2:]))
    table = table_of(graph)
    extra = table.layer_ms(graph, {})["d"]
    assert table.predict(twice, {}) == pytest.approx(table.predict(graph, {}) + extra)
    assert weight_bytes(twice, {}) == weight_bytes(graph, {})


@pytest.mark.parametrize("gone", [("inner",), ("wide",), ("inner", "wide")])
@pytest.mark.parametrize("trunk", [4, 8])
def test_a_dropped_block_costs_what_a_model_without_it_costs(gone, trunk):
    graph, table = residual(), table_of(residual(), GRIDS[residual])
    without = graph_of(
        graph.widths(),
        [layer for layer in graph.layers if layer.only_with not in gone],
        [step for step in graph.liveness if step.only_with not in gone],
    )
    widths = {"trunk": trunk, **dict.fromkeys(gone, 0)}
    assert table.predict(graph, widths) == pytest.approx(table.predict(without, {"trunk": trunk}))
    assert weight_bytes(graph, widths) == weight_bytes(without, {"trunk": trunk})
    assert model_peak_bytes(graph, widths) == model_peak_bytes(without, {"trunk": trunk})


def test_a_dropped_layer_is_reported_with_no_width_and_no_time():
    graph = residual()
    kept = {**graph.widths(), "wide": 0}
    times = table_of(graph).layer_ms(graph, kept)
    for layer in graph.layers:
        assert (times[layer.name] == 0.0) == (layer.only_with == "wide")
        assert (layer.widths(kept) == (0, 0)) == (layer.only_with == "wide")
