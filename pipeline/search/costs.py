"""What widths cost: latency by the device's table, bytes of the file, bytes of memory at its peak.

Each layer between two groups gives one term over the pair of their widths. A layer behind a concatenation
depends on the sum of several widths: its cost is taken as a straight line in its input width, which splits
into one term for each group in front of it. That is exact for bytes, and for latency up to the steps of the
kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.search.allocate import CostRow, Floats, Problem
from pipeline.search.company import Link, links
from pipeline.search.shapes import LayerShape, input_range, joins, neighbours, shape_at, sized
from pipeline.search.table import LatencyTable

if TYPE_CHECKING:
    from pipeline.graph.groups import ComputeLayer, DependencyGraph, LiveSet

BYTES_PER_WEIGHT = 4

Grid = Mapping[str, tuple[int, ...]]


def build_problem(
    graph: DependencyGraph,
    table: LatencyTable,
    kept: Mapping[str, Floats],
    limits: Mapping[str, float],
    widths: Grid,
) -> Problem:
    """Return the problem of choosing among `widths`.

    Args:
        graph: The model's groups, layers and liveness.
        table: Holds every shape of `table_shapes(graph, widths)`.
        kept: Group → the share of the model's importance that each of its widths keeps, shape (widths,).
        limits: "latency" in the table's milliseconds, "file" in bytes of weights, "model_peak" in bytes of
            weights and activations: what whole-model measurements add to these is the caller's to subtract.
        widths: Group → candidate widths, ascending, the full width last.

    Raises:
        InputError: a limit on anything else, or the table lacks a layer.
    """
    latency = _total(graph.layers, widths, table.lookup)
    latency.constant += table.empty_ms
    for link in links(graph):
        _add_company(latency, link, graph.widths(), widths, table)
    weights = _total(_owners(graph), widths, _bytes)
    rows = (
        latency.row("latency", "layers"),
        weights.row("file", "weights"),
        *_memory_rows(graph, widths, weights),
    )
    return Problem(dict(widths), dict(kept), rows, dict(limits))


def weight_bytes(graph: DependencyGraph, widths: Mapping[str, int]) -> float:
    """Return the bytes of all layers' weights and biases, float32, at `widths` (missing groups are whole)."""
    kept = {**graph.widths(), **widths}
    return float(sum(_bytes(shape_at(layer, kept)) for layer in _owners(graph)))


def model_peak_bytes(graph: DependencyGraph, widths: Mapping[str, int]) -> float:
    """Return weights plus the largest set of activations alive at once, in bytes, float32, batch 1."""
    kept = {**graph.widths(), **widths}
    return weight_bytes(graph, kept) + max((step.bytes(kept) for step in graph.liveness), default=0.0)


def _owners(graph: DependencyGraph) -> list[ComputeLayer]:
    """Return the layers without the further calls ("name#2") of one that is called again."""
    return [layer for layer in graph.layers if "#" not in layer.name]


def _bytes(shape: LayerShape) -> float:
    return float(BYTES_PER_WEIGHT * shape.weight_count)


def _memory_rows(graph: DependencyGraph, widths: Grid, weights: _Sum) -> list[CostRow]:
    rows = []
    for step in graph.liveness:
        total = _Sum(weights.constant, dict(weights.single), dict(weights.pairs))
        _add_live(total, step, widths)
        rows.append(total.row("model_peak", step.step))
    return rows or [weights.row("model_peak", "weights")]


def _add_live(total: _Sum, step: LiveSet, widths: Grid) -> None:
    """Add the bytes alive in one step; those of a step within a block only where the block stays."""
    costs = {name: size * np.array(widths[name], np.float64) for name, size in step.per_unit_bytes.items()}
    if step.only_with is None:
        total.constant += step.fixed_bytes
        for name, each in costs.items():
            total.add_single(name, each)
        return
    stays = (np.array(widths[step.only_with]) > 0).astype(np.float64)
    total.add_single(step.only_with, step.fixed_bytes * stays)
    for name, each in costs.items():
        if name == step.only_with:
            total.add_single(name, each)
        else:
            total.add_pair(step.only_with, name, np.outer(stays, each))


def _add_company(
    total: _Sum, link: Link, whole: Mapping[str, int], widths: Grid, table: LatencyTable
) -> None:
    """Add what a layer saves beside another: a term of the widths between them and in front, if its block stays."""
    groups = (link.between, link.entry, link.owner.only_with)
    names = list(dict.fromkeys(name for name in groups if name is not None))

    def at(kept: Mapping[str, int]) -> float:
        return table.saving(link, whole, {**whole, **kept})

    _add_term(total, names, widths, at)


def _total(layers: Iterable[ComputeLayer], widths: Grid, cost: Callable[[LayerShape], float]) -> _Sum:
    total = _Sum()
    for layer in layers:
        add = _add_joining if joins(layer) else _add_simple
        add(total, layer, widths, cost)
    return total


@dataclass
class _Sum:
    """A sum of terms over single groups and pairs of groups."""

    constant: float = 0.0
    single: dict[str, Floats] = field(default_factory=dict)
    pairs: dict[tuple[str, str], Floats] = field(default_factory=dict)

    def row(self, resource: str, name: str) -> CostRow:
        return CostRow(resource, name, self.constant, self.single, self.pairs)

    def add_single(self, name: str, costs: Floats) -> None:
        self.single[name] = self.single[name] + costs if name in self.single else costs

    def add_pair(self, first: str, second: str, costs: Floats) -> None:
        """Add costs of shape (widths of `first`, widths of `second`); each pair is kept in one order."""
        if first == second:
            self.add_single(first, np.diagonal(costs).copy())
        elif first > second:
            self.add_pair(second, first, costs.T)
        else:
            key = (first, second)
            self.pairs[key] = self.pairs[key] + costs if key in self.pairs else costs


def _add_simple(total: _Sum, layer: ComputeLayer, widths: Grid, cost: Callable[[LayerShape], float]) -> None:
    """Add a layer whose shape depends on two groups at most."""

    def at(kept: Mapping[str, int]) -> float:
        return cost(shape_at(layer, kept))

    _add_term(total, neighbours(layer), widths, at)


def _add_term(
    total: _Sum, names: Sequence[str], widths: Grid, at: Callable[[Mapping[str, int]], float]
) -> None:
    """Add a cost that depends on the widths of two groups at most."""
    if not names:
        total.constant += at({})
    elif len(names) == 1:
        total.add_single(names[0], np.array([at({names[0]: width}) for width in widths[names[0]]]))
    else:
        first, second = names
        costs = [[at({first: one, second: two}) for two in widths[second]] for one in widths[first]]
        total.add_pair(first, second, np.array(costs))


def _add_joining(total: _Sum, layer: ComputeLayer, widths: Grid, cost: Callable[[LayerShape], float]) -> None:
    """Add a layer behind several groups: its cost at the narrowest input, and a slope for each of them."""
    narrow, wide = input_range(layer, widths)
    outs: tuple[int | None, ...] = (None,) if layer.out_group is None else widths[layer.out_group]
    low = np.array([cost(sized(layer, narrow, out)) for out in outs])
    high = np.array([cost(sized(layer, wide, out)) for out in outs])
    slope = (high - low) / max(wide - narrow, 1)
    if layer.out_group is None:
        total.constant += float(low[0])
    else:
        total.add_single(layer.out_group, low)
    for name in layer.in_groups:  # one that counts double is listed twice
        grown = (np.array(widths[name], np.float64) - widths[name][0]) * layer.in_repeat
        if layer.out_group is None:
            total.add_single(name, grown * slope[0])
        else:
            total.add_pair(name, layer.out_group, np.outer(grown, slope))
