"""What whole-model measurements teach about a latency table: where the difference comes from.

A table times layers alone. A whole model also joins, pads, pools and hands on, and a layer in company is not as fast
as alone. So its latency is taken as linear in few kinds of terms, each of which has a cause:

    ms(w) = e + N(w) + c + b * B(w) + sum over layers of (1 + g + d_f + h_s) * T_s

    e    one empty call                                                                        from the table
    N    what neighbouring layers take less, or more, than each alone (`company.py`)           from the table
    T_s  the table's entry for a layer's shape s at the widths w                               from the table
    B    bytes alive in the operators that the table does not time                             from the graph
    c    what no width changes                                                                 learnt
    b    ms a byte                                                                             learnt
    g    all layers are slower in company; d_f: those of a family (equal kind, kernel, stride,
         image size); h_s: those of one shape, since an entry of the table is itself a
         measurement                                                                           learnt

Before anything was measured all that is learnt is 0: the table alone. Each measurement adds the equation above, and,
where the runtime tells the times of its operators, one for each family and one for all that no layer has (c + b * B).
They are solved by ridge regression around the prior (Hoerl & Kennard 1970; the mean of a Bayesian linear model, Bishop
2006, equations 3.50 and 3.51, in the form that inverts one row a measurement):

    x = P Φᵀ (Φ P Φᵀ + R)⁻¹ (y - what the table says)

P, diagonal, says how far each term may stray; R is the spread that the device showed. Neither c nor b may take time
away. At last all terms are scaled so that the prediction is exact at the point measured last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipeline.search.allocate import CostRow, Floats
from pipeline.search.costs import Grid, build_problem
from pipeline.search.shapes import LayerShape
from pipeline.search.table import LatencyTable
from pipeline.search.terms import REST, Point, Terms, family, untimed

if TYPE_CHECKING:
    from pipeline.graph.groups import DependencyGraph

CONSTANT_SPREAD = 0.2  # of the first model's latency
BYTES_SPREAD = 0.1  # of the first model's latency, for all its bytes
COMMON_SPREAD = 0.1  # of the table's entries, all alike
FAMILY_SPREAD = 0.03  # of the entries of a family
ENTRY_SPREAD = 0.05  # of one entry
OPERATOR_DOUBT = 0.1  # of an operator's time: the profiler counts whole microseconds and costs some itself
OTHERS_DOUBT = 0.2  # of the time of all operators that the table does not know
FLOOR_DOUBT = 0.003  # of the whole latency
LEAST_NOISE = 0.005  # of a latency: what a device shows in one measurement is not all of it
SMALLEST_FACTOR = 0.05


@dataclass(frozen=True)
class Learnt:
    """The learnt terms: a constant in ms, ms a byte, and factors on the table: all, each family, each shape."""

    constant_ms: float = 0.0
    ms_per_byte: float = 0.0
    common: float = 1.0
    families: Mapping[str, float] = field(default_factory=dict)
    shapes: Mapping[LayerShape, float] = field(default_factory=dict)

    def factor(self, shape: LayerShape) -> float:
        """Return the factor on the table's entry for a shape, that of its family where it was never measured."""
        return self.shapes.get(shape, self.families.get(family(shape), self.common))

    def predict(self, terms: Terms) -> float:
        """Return the p50 latency in ms that is expected of a model with these terms."""
        layers = sum(self.factor(shape) * ms for shape, ms in terms.shape_ms.items())
        return terms.fixed_ms + self.constant_ms + self.ms_per_byte * terms.moved_bytes + layers

    def scaled(self, ratio: float) -> Learnt:
        """Return all terms, multiplied."""
        return Learnt(
            self.constant_ms * ratio,
            self.ms_per_byte * ratio,
            self.common * ratio,
            {name: factor * ratio for name, factor in self.families.items()},
            {shape: factor * ratio for shape, factor in self.shapes.items()},
        )


NOTHING = Learnt()


@dataclass(frozen=True)
class Correction:
    """All measured points, in order, and what follows from them."""

    points: tuple[Point, ...] = ()

    def with_point(self, point: Point) -> Correction:
        """Return the correction with one more measurement."""
        return Correction((*self.points, point))

    def predict(self, terms: Terms) -> float:
        """Return the p50 latency in ms that is expected of a model with these terms."""
        return self.learnt.predict(terms)

    @cached_property
    def learnt(self) -> Learnt:
        """The terms that follow from all points."""
        if not self.points:
            return NOTHING
        equations, frozen = _Equations(self.points), list[int]()
        found = equations.solve(frozen)
        while negative := [column for column in (0, 1) if found[column] < 0]:
            frozen += negative
            found = equations.solve(frozen)
        learnt, last = equations.read(found), self.points[-1]
        own = learnt.predict(last.terms) - last.terms.fixed_ms
        wanted = last.ms - last.terms.fixed_ms
        return learnt.scaled(wanted / own) if own > 0 < wanted else learnt


@dataclass(frozen=True)
class CorrectedTable(LatencyTable):
    """A table whose entries are multiplied by what was learnt."""

    learnt: Learnt = NOTHING

    def lookup(self, shape: LayerShape) -> float:
        """See `LatencyTable.lookup`."""
        return self.learnt.factor(shape) * super().lookup(shape)


def corrected(table: LatencyTable, learnt: Learnt) -> CorrectedTable:
    """Return the table with corrected entries."""
    values = {each.name: getattr(table, each.name) for each in fields(table)}
    return CorrectedTable(**{**values, "learnt": learnt})


def latency_row(
    graph: DependencyGraph,
    table: LatencyTable,
    kept: Mapping[str, Floats],
    widths: Grid,
    correction: Correction,
) -> CostRow:
    """Return the corrected latency, in ms as the whole model would be measured, as a cost of widths.

    It, too, is exact at the point measured last, where layers behind a concatenation are interpolated (`costs.py`).
    """
    learnt = correction.learnt
    layers = build_problem(replace(graph, liveness=()), corrected(table, learnt), kept, {}, widths)
    weighted = [(1.0, row) for row in layers.rows if row.resource == "latency"]
    if learnt.ms_per_byte > 0:
        moving = build_problem(replace(graph, layers=(), liveness=untimed(graph)), table, kept, {}, widths)
        weighted += [(learnt.ms_per_byte, row) for row in moving.rows if row.resource == "model_peak"]
    row = _sum("latency", "layers, corrected", learnt.constant_ms, weighted)
    if not correction.points:
        return row
    last = correction.points[-1]
    at = {name: last.widths.get(name, choices[-1]) for name, choices in widths.items()}
    if any(width not in widths[name] for name, width in at.items()):
        return row
    off = last.ms - row.value({name: widths[name].index(width) for name, width in at.items()})
    return replace(row, constant=row.constant + off)


def scaled(row: CostRow, factor: float, resource: str, name: str) -> CostRow:
    """Return a multiple of a cost as the cost of another resource."""
    return _sum(resource, name, 0.0, [(factor, row)])


class _Equations:
    """Rows over the columns c, b, g, every d_f, every h_s; c and b count in the first model's latency."""

    def __init__(self, points: Sequence[Point]) -> None:
        shapes = dict.fromkeys(shape for point in points for shape in point.terms.shape_ms)
        self.families = list(dict.fromkeys(map(family, shapes)))
        self.shapes = list(shapes)
        whole = points[0]
        self.scale = (whole.ms, whole.ms / max(whole.terms.moved_bytes, 1.0))
        self.rows: list[Floats] = []
        self.wanted: list[float] = []
        self.doubts: list[float] = []
        for point in points:
            self._add_model(point)
            if point.parts is not None:
                self._add_operators(point, point.parts)

    def solve(self, frozen: Sequence[int]) -> Floats:
        """Return the learnt terms; the columns `frozen` stay 0."""
        strays = np.array(
            [CONSTANT_SPREAD, BYTES_SPREAD, COMMON_SPREAD]
            + [FAMILY_SPREAD] * len(self.families)
            + [ENTRY_SPREAD] * len(self.shapes)
        )
        strays[list(frozen)] = 0.0
        rows = np.array(self.rows)
        spread = strays[:, None] ** 2 * rows.T
        found: Floats = spread @ np.linalg.solve(rows @ spread + np.diag(np.square(self.doubts)), self.wanted)
        return found

    def read(self, found: Floats) -> Learnt:
        """Return the learnt terms by their names."""
        families = {name: 1 + found[2] + more for name, more in zip(self.families, found[3:], strict=False)}
        own = zip(self.shapes, found[3 + len(self.families) :], strict=True)
        shapes = {shape: families[family(shape)] + more for shape, more in own}
        return Learnt(
            float(found[0] * self.scale[0]),
            float(found[1] * self.scale[1]),
            max(1 + float(found[2]), SMALLEST_FACTOR),
            {name: max(float(factor), SMALLEST_FACTOR) for name, factor in families.items()},
            {shape: max(float(factor), SMALLEST_FACTOR) for shape, factor in shapes.items()},
        )

    def _add_model(self, point: Point) -> None:
        terms = point.terms
        table_ms = terms.fixed_ms + sum(terms.shape_ms.values())
        row = self._around(terms) + self._layers(terms.shape_ms)
        self._add(row, point.ms - table_ms, max(point.noise, LEAST_NOISE) * point.ms)

    def _add_operators(self, point: Point, parts: Mapping[str, float]) -> None:
        floor = FLOOR_DOUBT * point.ms
        for name in self.families:
            own = {shape: ms for shape, ms in point.terms.shape_ms.items() if family(shape) == name}
            expected = sum(own.values()) + point.terms.saved_ms.get(name, 0.0)
            if name in parts and expected > 0:
                self._add(self._layers(own), parts[name] - expected, OPERATOR_DOUBT * parts[name] + floor)
        self._add(self._around(point.terms), parts[REST], OTHERS_DOUBT * parts[REST] + floor)

    def _around(self, terms: Terms) -> Floats:
        row = self._empty()
        row[:2] = self.scale[0], self.scale[1] * terms.moved_bytes
        return row

    def _layers(self, shape_ms: Mapping[LayerShape, float]) -> Floats:
        row = self._empty()
        row[2] = sum(shape_ms.values())
        for shape, ms in shape_ms.items():
            row[3 + self.families.index(family(shape))] += ms
            row[3 + len(self.families) + self.shapes.index(shape)] += ms
        return row

    def _empty(self) -> Floats:
        return np.zeros(3 + len(self.families) + len(self.shapes))

    def _add(self, row: Floats, ms: float, doubt: float) -> None:
        self.rows.append(row)
        self.wanted.append(ms)
        self.doubts.append(doubt)


def _sum(resource: str, name: str, constant: float, weighted: Sequence[tuple[float, CostRow]]) -> CostRow:
    single: dict[str, Floats] = {}
    pairs: dict[tuple[str, str], Floats] = {}
    for weight, row in weighted:
        constant += weight * row.constant
        for group, costs in row.single.items():
            single[group] = single.get(group, 0.0) + weight * costs
        for pair, costs in row.pairs.items():
            pairs[pair] = pairs.get(pair, 0.0) + weight * costs
    return CostRow(resource, name, constant, single, pairs)
