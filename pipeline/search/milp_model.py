"""The problem of choosing widths as columns and rows for a solver of mixed-integer linear problems.

A layer between groups a and b costs c[i, j] when a has its i-th and b its j-th width; z[i, j] stands for
x_a[i] · x_b[j] and is tied to it by Σ_j z[i, j] = x_a[i] and Σ_i z[i, j] = x_b[j], so z itself may be continuous.

A resource with many rows (memory: one for each step of the model) has one column more for what all its rows have in
common (the weights), so that a row holds only what it has beside that: on ResNet-50 9,000 cells instead of 235,000.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import Enum
from typing import TypeVar

import numpy as np
from scipy.optimize import Bounds, LinearConstraint
from scipy.sparse import csr_array

from pipeline.search.allocate import TOLERANCE, CostRow, Floats, Problem

SHARPNESS = 1000.0  # importance is scaled up, so that the solver's absolute tolerances are small beside it
NEAR_WEIGHT = 1e-4  # importance against overrun when nothing meets the limits
Key = TypeVar("Key", str, tuple[str, str])


class Goal(Enum):
    """What is asked of the solver: the most importance; the smallest worst overrun; the smallest sum of them."""

    KEPT = "kept"
    WORST = "worst"
    SUM = "sum"


class Model:
    """A problem as columns and rows.

    Columns: x of every group and width; z of every pair of widths in a row; what the rows of a resource have in
    common, as a share of its limit; the overrun of each limit that is `loose`; last the worst of these.
    """

    def __init__(self, problem: Problem, loose: frozenset[str], margin: float = 0.0) -> None:
        self.problem = problem
        self.allowance = TOLERANCE - margin
        self.bases, self.rows = _parted(problem.tight_rows)
        self.first: dict[str, int] = {}
        count = 0
        for name, choices in problem.widths.items():
            self.first[name] = count
            count += len(choices)
        self.choices = count
        self.first_pair: dict[tuple[str, str], int] = {}
        for pair in dict.fromkeys(pair for row in problem.tight_rows for pair in row.pairs):
            self.first_pair[pair] = count
            count += len(problem.widths[pair[0]]) * len(problem.widths[pair[1]])
        self.common = {name: count + number for number, name in enumerate(self.bases)}
        count += len(self.common)
        self.overrun = {name: count + number for number, name in enumerate(sorted(loose))}
        self.worst = count + len(loose)
        self.columns = self.worst + 1

    def objective(self, goal: Goal) -> Floats:
        """What is to be as small as possible."""
        costs = np.zeros(self.columns)
        if goal is Goal.WORST:
            costs[self.worst] = 1.0
            return costs
        for name, start in self.first.items():
            kept = self.problem.kept[name]
            costs[start : start + len(kept)] = -kept * (SHARPNESS if goal is Goal.KEPT else NEAR_WEIGHT)
        costs[list(self.overrun.values())] = 1.0
        return costs

    def integrality(self) -> Floats:
        """1 for the columns that must be whole."""
        whole = np.zeros(self.columns)
        whole[: self.choices] = 1
        return whole

    def bounds(self, most: float) -> Bounds:
        """All of x and z from 0 to 1, common parts anything, overruns from 0 on, the worst of them to `most`."""
        lower, upper = np.zeros(self.columns), np.ones(self.columns)
        lower[list(self.common.values())] = -np.inf
        upper[[*self.common.values(), *self.overrun.values()]] = np.inf
        upper[self.worst] = most
        return Bounds(lower, upper)

    def constraints(self) -> list[LinearConstraint]:
        """One width a group; z tied to x; every row within its limit plus the overrun."""
        cells = _Cells()
        for name, choices in self.problem.widths.items():
            start = self.first[name]
            cells.row({start + position: 1.0 for position in range(len(choices))}, 1.0)
        for pair, start in self.first_pair.items():
            self._tie(cells, pair, start)
        equal = LinearConstraint(cells.matrix(self.columns), cells.right, cells.right)
        limited = _Cells()
        for name, base in self.bases.items():
            self._row(limited, base, {self.common[name]: -1.0}, 0.0)
        for row in self.rows:
            parts = ((self.common.get(row.resource), 1.0), (self.overrun.get(row.resource), -1.0))
            more = {column: factor for column, factor in parts if column is not None}
            limit = self.problem.limits[row.resource] / self.problem.scales[row.resource]
            self._row(limited, row, more, limit + self.allowance)
        for column in self.overrun.values():
            limited.row({column: 1.0, self.worst: -1.0}, 0.0)
        return [equal, LinearConstraint(limited.matrix(self.columns), -np.inf, limited.right)]

    def _tie(self, cells: _Cells, pair: tuple[str, str], start: int) -> None:
        tall, wide = (len(self.problem.widths[name]) for name in pair)
        for i in range(tall):
            row = {start + i * wide + j: 1.0 for j in range(wide)}
            cells.row({**row, self.first[pair[0]] + i: -1.0}, 0.0)
        for j in range(wide):
            row = {start + i * wide + j: 1.0 for i in range(tall)}
            cells.row({**row, self.first[pair[1]] + j: -1.0}, 0.0)

    def _row(self, cells: _Cells, row: CostRow, more: dict[int, float], right: float) -> None:
        """Add the row "cost, as a share of what overruns are relative to, plus `more` is at most `right`"."""
        scale = self.problem.scales[row.resource]
        columns = dict(more)
        for name, costs in row.single.items():
            columns |= {self.first[name] + position: cost / scale for position, cost in enumerate(costs)}
        for pair, costs in row.pairs.items():
            start = self.first_pair[pair]
            columns |= {start + position: cost / scale for position, cost in enumerate(costs.ravel())}
        cells.row(columns, right - row.constant / scale)

    def choice(self, solution: Floats) -> dict[str, int]:
        """Return the position of each group's width."""
        return {
            name: int(np.argmax(solution[start : start + len(self.problem.widths[name])]))
            for name, start in self.first.items()
        }


def _parted(rows: Sequence[CostRow]) -> tuple[dict[str, CostRow], list[CostRow]]:
    """Return what all rows of a resource have in common, where it has several, and all rows without that."""
    bases: dict[str, CostRow] = {}
    for resource in dict.fromkeys(row.resource for row in rows):
        own = [row for row in rows if row.resource == resource]
        if len(own) > 1:
            single, pairs = _least([row.single for row in own]), _least([row.pairs for row in own])
            bases[resource] = CostRow(resource, "common", 0.0, single, pairs)
    return bases, [_without(row, bases[row.resource]) if row.resource in bases else row for row in rows]


def _least(terms: Sequence[Mapping[Key, Floats]]) -> dict[Key, Floats]:
    """Return the terms that are in all rows, each at its smallest."""
    everywhere = [key for key in terms[0] if all(key in each for each in terms)]
    return {key: np.min([each[key] for each in terms], axis=0) for key in everywhere}


def _without(row: CostRow, base: CostRow) -> CostRow:
    return replace(row, single=_rest(row.single, base.single), pairs=_rest(row.pairs, base.pairs))


def _rest(terms: Mapping[Key, Floats], base: Mapping[Key, Floats]) -> dict[Key, Floats]:
    """Return the terms without those of `base`, and without those of which nothing is left."""
    parts = {key: costs - base[key] if key in base else costs for key, costs in terms.items()}
    return {key: costs for key, costs in parts.items() if costs.any()}


class _Cells:
    """A sparse matrix under construction, with its right-hand side."""

    def __init__(self) -> None:
        self.columns: list[int] = []
        self.values: list[float] = []
        self.starts: list[int] = [0]
        self.right: list[float] = []

    def row(self, cells: dict[int, float], right: float) -> None:
        self.columns += cells.keys()
        self.values += cells.values()
        self.starts.append(len(self.columns))
        self.right.append(right)

    def matrix(self, columns: int) -> csr_array:
        return csr_array((self.values, self.columns, self.starts), shape=(len(self.right), columns))
