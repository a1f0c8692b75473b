"""What a model's latency is made of: table entries, bytes moved by the rest, and what a profiler says of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.graph.shortcuts import padded_shortcuts
from pipeline.measurement import OperatorTime
from pipeline.search.shapes import LayerShape, shape_at
from pipeline.search.table import LatencyTable

if TYPE_CHECKING:
    from pipeline.graph.groups import DependencyGraph, LiveSet

REST = "rest"  # the time of operators that belong to no layer
_CONVOLUTIONS = frozenset({"Conv", "FusedConv", "NhwcFusedConv"})
_PRODUCTS = frozenset({"Gemm", "FusedGemm", "MatMul", "FusedMatMul"})
_TIMED = ("conv", "linear", "addmm", "batch_norm", "relu", "hardtanh")  # layers, and what fuses into them


@dataclass(frozen=True)
class Terms:
    """What the latency of one model is made of: ms of an empty call, table ms of each shape, and bytes.

    `saved_ms` is by how much the layers of each family take less (below 0) or more in company.
    """

    empty_ms: float
    shape_ms: Mapping[LayerShape, float]
    moved_bytes: float
    saved_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def fixed_ms(self) -> float:
        """What is taken from the table as it is."""
        return self.empty_ms + sum(self.saved_ms.values())


@dataclass(frozen=True)
class Point:
    """One measured model: its widths (groups that are missing are whole) and terms, p50 and relative spread.

    `parts` has the ms of each family's operators and of the `REST`.
    """

    widths: Mapping[str, int]
    terms: Terms
    ms: float
    noise: float
    parts: Mapping[str, float] | None = None


def terms_of(graph: DependencyGraph, table: LatencyTable, widths: Mapping[str, int]) -> Terms:
    """Return what the latency at `widths` (units kept; missing groups are whole) is made of."""
    kept = {**graph.widths(), **widths}
    sums: dict[LayerShape, float] = {}
    for layer in graph.layers:
        shape = shape_at(layer, kept)
        sums[shape] = sums.get(shape, 0.0) + table.lookup(shape)
    saved: dict[str, float] = {}
    for shape, ms in table.savings_ms(graph, kept):
        saved[family(shape)] = saved.get(family(shape), 0.0) + ms
    return Terms(table.empty_ms, sums, sum(step.bytes(kept) for step in untimed(graph)), saved)


def family(shape: LayerShape) -> str:
    """Return what a shape has in common with those that differ in their widths only."""
    sizes = (shape.kernel, shape.stride, shape.dilation, shape.input_hw)
    style = " depthwise" if 1 < shape.groups == shape.in_width else " grouped" if shape.groups > 1 else ""
    return f"{shape.kind}{style} " + " ".join(f"{high}x{wide}" for high, wide in sizes)


def untimed(graph: DependencyGraph) -> tuple[LiveSet, ...]:
    """Return the steps of operators that are neither layers of the table nor fused into them."""
    targets = {node.name: str(node.target) for node in graph.capture.program.graph.nodes}
    return tuple(
        step
        for step in graph.liveness
        if step.step in targets and not any(word in targets[step.step] for word in _TIMED)
    )


def operator_parts(
    graph: DependencyGraph,
    table: LatencyTable,
    widths: Mapping[str, int],
    operators: Sequence[OperatorTime],
    p50_ms: float,
) -> dict[str, float] | None:
    """Return the ms of each family's operators, and of the rest; None where operators and layers do not match.

    A profiler's own cost is one for each operator, not a share of its time: what the operators' sum has more (or
    less) than the unprofiled latency is taken from (or given to) all of them alike. A runtime runs operators in an
    order of its own and calls them by names of its own, so of convolutions, and of products, the slowest one is taken
    as the layer that the table says is slowest, and so on. Shortcuts that became convolutions are the fastest.
    """
    runs = min((each.calls for each in operators), default=0)
    if runs == 0:
        return None
    total = sum(each.p50_ms * each.calls / runs for each in operators)
    surplus = (total - p50_ms) / sum(each.calls / runs for each in operators)
    own = {each.name: max(each.share * total - surplus * each.calls / runs, 0.0) for each in operators}
    kept = {**graph.widths(), **widths}
    shapes = [shape_at(layer, kept) for layer in graph.layers if not layer.is_gone(kept)]
    parts: dict[str, float] = {}
    for names, convolved in ((_CONVOLUTIONS, True), (_PRODUCTS, False)):
        alike = [shape for shape in shapes if (shape.kind == "conv2d") == convolved]
        alike.sort(key=table.lookup, reverse=True)
        times = sorted((own[each.name] for each in operators if each.kind in names), reverse=True)
        others = len(padded_shortcuts(graph.capture.program.graph)) if convolved else 0
        if len(times) != len(alike) + others or len(own) != len(operators):
            return None
        for shape, ms in zip(alike, times, strict=False):
            parts[family(shape)] = parts.get(family(shape), 0.0) + ms
    return {**parts, REST: sum(own.values()) - sum(parts.values())}
