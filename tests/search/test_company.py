"""Neighbouring layers that are timed together: which they are, what they save, and where that counts."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from small_graphs import chain, residual
from test_layer_models import RUNTIMES, by_runtime, by_torch
from test_table import table_of
from torch import Tensor, nn

from pipeline.graph import DependencyGraph, trace
from pipeline.search import (
    EMPTY,
    LatencyTable,
    LayerShape,
    PairShape,
    build_layer_model,
    build_problem,
    front_shapes,
    pair_shapes,
)
from pipeline.search.company import links
from pipeline.search.correction import Correction, latency_row
from pipeline.search.importance import kept_shares
from pipeline.search.terms import Point, family, terms_of

GRIDS = {
    chain: {"a": (4, 8, 16), "b": (6, 24)},
    residual: {"trunk": (4, 8), "inner": (0, 2, 6), "wide": (0, 8, 24)},
}


class Net(nn.Module):
    """Chains, a branch, a pool and an addition."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.two, self.three, self.four = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(3))
        self.five, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(torch.relu(self.norm(self.one(x))))
        y = self.three(x)
        x = torch.relu(y + x)  # four takes from two and from three
        x = self.five(torch.max_pool2d(self.four(x), 2))  # something comes between
        return self.head(x.mean((2, 3)))


def followed(graph: DependencyGraph) -> DependencyGraph:
    """The graph with every convolution following the one before it in the list, where the widths agree."""
    layers, before = [], None
    for layer in graph.layers:
        alike = before is not None and layer.in_groups == (before.out_group,) and layer.kind == "conv2d"
        layers.append(replace(layer, takes=(before.name,) if before is not None and alike else ()))
        before = layer
    return replace(graph, layers=tuple(layers))


def timed(graph: DependencyGraph, widths: dict[str, tuple[int, ...]]) -> LatencyTable:
    """A table in which each pair saves a share of its own that depends on the width between."""
    alone = table_of(graph, widths)
    times = {EMPTY: alone.empty_ms, **{entry.shape: entry.p50_ms for entry in alone.entries}}
    together = {
        pair: (times[pair.first] + times[pair.second]) * (0.9 - 0.01 * pair.second.in_width)
        for pair in (*pair_shapes(graph, widths), *front_shapes(graph, widths, lambda pair: True))
    }
    return LatencyTable.from_times(times, together)


def test_who_follows_whom_is_read_from_the_graph() -> None:
    graph = trace(Net().eval(), torch.zeros(1, 3, 8, 8))
    found = {(link.owner.name, link.first.name, link.second.name) for link in links(graph)}
    assert found == {
        ("one", "one", "two"),
        ("two", "one", "two"),
        ("two", "two", "three"),
        ("three", "two", "three"),
        ("three", "three", "four"),
        ("four", "three", "four"),
    }
    assert {layer.name: layer.takes for layer in graph.layers if layer.name in {"four", "five"}} == {
        "four": ("two", "three"),
        "five": (),
    }


@pytest.mark.parametrize("make", [chain, residual])
def test_what_pairs_save_is_in_the_problem_as_it_is_in_the_table(make) -> None:
    graph, widths = followed(make()), GRIDS[make]
    assert links(graph)
    table = timed(graph, widths)
    importance = {group.name: np.ones(group.width) for group in graph.groups}
    problem = build_problem(graph, table, kept_shares(importance, widths), {}, widths)
    plain = table_of(graph, widths)
    differing = 0
    for positions in product(*(range(len(choices)) for choices in widths.values())):
        choice = dict(zip(widths, positions, strict=True))
        chosen = {name: widths[name][position] for name, position in choice.items()}
        assert problem.predicted(choice)["latency"] == pytest.approx(table.predict(graph, chosen))
        differing += abs(table.predict(graph, chosen) - plain.predict(graph, chosen)) > 1e-6
    assert differing > 1


def test_layers_that_went_with_their_block_save_nothing() -> None:
    graph, widths = followed(residual()), GRIDS[residual]
    table, gone = timed(graph, widths), {"inner": 0, "wide": 0}
    inside = [link for link in links(graph) if link.owner.only_with in gone]
    assert inside
    assert len(table.savings_ms(graph, {})) == len(links(graph))
    assert len(table.savings_ms(graph, gone)) == len(links(graph)) - len(inside)


def test_two_save_nothing_where_the_width_in_front_keeps_the_first_from_it() -> None:
    """As onnxruntime on x86: a convolution that takes 18 channels is not computed in blocks, whatever it gives."""
    graph, widths = followed(residual()), {"trunk": (4, 6, 8), "inner": (0, 2, 6), "wide": (0, 8, 24)}
    alone = table_of(graph, widths)
    times = {EMPTY: alone.empty_ms, **{entry.shape: entry.p50_ms for entry in alone.entries}}
    shapes = {*pair_shapes(graph, widths), *front_shapes(graph, widths, lambda pair: True)}
    apart = {pair: times[pair.first] + times[pair.second] for pair in shapes}
    together = {
        pair: ms - times[EMPTY] - (0.0 if pair.first.in_width % 4 == 2 else 0.3 * ms)
        for pair, ms in apart.items()
    }
    table = LatencyTable.from_times(times, together)
    assert not front_shapes(graph, widths, lambda pair: False)
    behind = [link for link in links(graph) if link.entry == "trunk"]
    assert behind
    whole = graph.widths()
    for link in behind:
        saved = {width: table.saving(link, whole, {**whole, "trunk": width}) for width in widths["trunk"]}
        assert saved[8] < 0
        assert saved[4] <= 0.4 * saved[8]
        assert abs(saved[6]) < 0.02 * abs(saved[8])


def test_a_table_without_pairs_is_the_sum_of_its_layers() -> None:
    graph, widths = followed(chain()), GRIDS[chain]
    plain = table_of(graph, widths)
    assert plain.predict(graph, {}) == pytest.approx(sum(plain.layer_ms(graph, {}).values()) + plain.empty_ms)


def test_the_correction_is_exact_at_what_was_measured_with_pairs_too() -> None:
    graph, widths = followed(chain()), GRIDS[chain]
    table = timed(graph, widths)
    kept = kept_shares({group.name: np.ones(group.width) for group in graph.groups}, widths)
    terms = terms_of(graph, table, {})
    ms = 1.3 * table.predict(graph, {})
    parts = dict.fromkeys(map(family, terms.shape_ms), 0.0)
    assert set(terms.saved_ms) <= set(parts)
    correction = Correction().with_point(Point({}, terms, ms, 0.01))
    assert correction.predict(terms) == pytest.approx(ms)
    row = latency_row(graph, table, kept, widths, correction)
    assert row.value({name: len(choices) - 1 for name, choices in widths.items()}) == pytest.approx(ms)
    assert terms.fixed_ms == pytest.approx(table.empty_ms + sum(ms for _, ms in table.savings_ms(graph, {})))


def test_each_width_between_two_layers_is_timed_once() -> None:
    graph, widths = followed(chain()), GRIDS[chain]
    pairs = pair_shapes(graph, widths)
    assert (
        len(pairs)
        == len(set(pairs))
        == sum(len(widths[link.between or ""]) for link in links(graph) if link.owner is link.first)
    )
    assert len({pair.key for pair in pairs}) == len(pairs)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_a_pair_s_file_computes_both_layers(runtime: str, activation: str | None, tmp_path) -> None:
    first = LayerShape("conv2d", 5, 12, (3, 3), (1, 1), (1, 1), (1, 1), 1, (8, 8), True, activation)
    second = LayerShape("conv2d", 12, 12, (3, 3), (2, 2), (1, 1), (1, 1), 12, (8, 8), True, "relu")
    path = tmp_path / ("pair.onnx" if runtime == "onnxruntime" else "pair.tflite")
    build_layer_model(PairShape(first, second), runtime, path)
    inputs = np.random.default_rng(0).standard_normal((1, 5, 8, 8)).astype(np.float32)
    wanted = by_torch(second, by_torch(first, inputs))
    np.testing.assert_allclose(by_runtime(path, runtime, inputs), wanted, rtol=1e-4, atol=1e-5)
