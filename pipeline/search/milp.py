"""Exact allocation as a mixed-integer linear problem, solved by HiGHS through SciPy.

Each group picks one of its widths (binary x: a knapsack as in HALP, Shen et al. 2022, with multiple
choice). A layer between groups a and b costs c[i, j] when a has its i-th and b its j-th width; z[i, j]
stands for x_a[i] · x_b[j] and is tied to it by Σ_j z[i, j] = x_a[i] and Σ_i z[i, j] = x_b[j], so z itself
may be continuous.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csr_array

from pipeline.search.allocate import TOLERANCE, Allocation, CostRow, Floats, Problem, answer, widened
from pipeline.search.greedy import GreedyAllocator

SHARPNESS = 1000.0  # importance is scaled up, so that the solver's absolute tolerances are small beside it
SOLVER_SLACK = 4e-6  # of a limit: by so much the solver may overrun it without noticing
NEAR_WEIGHT = 1e-4  # importance against overrun when nothing meets the limits


@dataclass(frozen=True)
class MilpAllocator:
    """Finds the plan that keeps the most importance, and proves it where `time_limit_s` allows.

    A plan within `relative_gap` of the best possible counts as the best. When the time is up the best plan
    found is returned with its gap; when none was found, the greedy one.
    """

    time_limit_s: float = 30.0
    relative_gap: float = 1e-6
    name: str = "milp"

    def allocate(self, problem: Problem) -> Allocation:
        """Return the best widths within the limits, or those with the least overrun and what stops."""
        if not problem.overruns(problem.full()):
            return answer(problem, problem.full(), solver=self.name, optimal=True, gap=0.0)
        model = _Model(problem, problem.tight_rows)
        solved = self._solve(model, overrun=False)
        if solved.x is not None and problem.overruns(model.choice(solved.x)):
            model = _Model(problem, problem.tight_rows, margin=SOLVER_SLACK)
            solved = self._solve(model, overrun=False)
        if solved.status == _INFEASIBLE:
            return self._nearest(problem)
        if solved.x is None:
            return GreedyAllocator().allocate(problem)
        choice = widened(problem, model.choice(solved.x))
        proven = solved.status == _OPTIMAL
        bound = -float(solved.mip_dual_bound) / SHARPNESS
        gap = 0.0 if proven else max(bound - problem.importance(choice), 0.0)
        return answer(problem, choice, solver=self.name, optimal=proven, gap=gap)

    def _nearest(self, problem: Problem) -> Allocation:
        """Return the plan whose worst relative overrun is the smallest."""
        model = _Model(problem, problem.tight_rows)
        solved = self._solve(model, overrun=True)
        if solved.x is None:
            return GreedyAllocator().allocate(problem)
        proven = solved.status == _OPTIMAL
        return answer(
            problem,
            model.choice(solved.x),
            solver=self.name,
            optimal=proven,
            gap=0.0 if proven else 1.0,
            binding=self._binding(problem),
        )

    def _binding(self, problem: Problem) -> tuple[str, ...]:
        """Return the resources whose limit cannot be met even alone; empty where only all together cannot."""
        return tuple(name for name in sorted(problem.limits) if self._out_of_reach(problem, name))

    def _out_of_reach(self, problem: Problem, resource: str) -> bool:
        alone = replace(problem, limits={resource: problem.limits[resource]})
        if not alone.tight_rows:
            return False
        model = _Model(alone, alone.tight_rows)
        solved = self._solve(model, overrun=True)
        return solved.x is not None and bool(alone.overruns(model.choice(solved.x)))

    def _solve(self, model: _Model, *, overrun: bool) -> OptimizeResult:
        options = {"time_limit": self.time_limit_s, "mip_rel_gap": self.relative_gap}
        return milp(
            model.objective(overrun=overrun),
            integrality=model.integrality(),
            bounds=model.bounds(overrun=overrun),
            constraints=model.constraints(),
            options=options,
        )


_OPTIMAL, _INFEASIBLE = 0, 2


class _Model:
    """Columns: x of every group and width, z of every pair of widths in a row, last the relative overrun."""

    def __init__(self, problem: Problem, rows: Sequence[CostRow], margin: float = 0.0) -> None:
        self.problem = problem
        self.rows = rows
        self.allowance = TOLERANCE - margin
        self.first: dict[str, int] = {}
        count = 0
        for name, choices in problem.widths.items():
            self.first[name] = count
            count += len(choices)
        self.choices = count
        self.first_pair: dict[tuple[str, str], int] = {}
        for pair in dict.fromkeys(pair for row in rows for pair in row.pairs):
            self.first_pair[pair] = count
            count += len(problem.widths[pair[0]]) * len(problem.widths[pair[1]])
        self.overrun = count
        self.columns = count + 1

    def objective(self, *, overrun: bool) -> Floats:
        """Importance to be kept, as a cost; or the overrun with a little importance."""
        costs = np.zeros(self.columns)
        for name, start in self.first.items():
            kept = self.problem.kept[name]
            costs[start : start + len(kept)] = -kept
        costs *= NEAR_WEIGHT if overrun else SHARPNESS
        costs[self.overrun] = 1.0 if overrun else 0.0
        return costs

    def integrality(self) -> Floats:
        """1 for the columns that must be whole."""
        whole = np.zeros(self.columns)
        whole[: self.choices] = 1
        return whole

    def bounds(self, *, overrun: bool) -> Bounds:
        """All columns from 0 to 1, the overrun from 0 to 0 or to anything."""
        upper = np.ones(self.columns)
        upper[self.overrun] = np.inf if overrun else 0.0
        return Bounds(np.zeros(self.columns), upper)

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
        for row in self.rows:
            self._limit(limited, row)
        return [equal, LinearConstraint(limited.matrix(self.columns), -np.inf, limited.right)]

    def _tie(self, cells: _Cells, pair: tuple[str, str], start: int) -> None:
        tall, wide = (len(self.problem.widths[name]) for name in pair)
        for i in range(tall):
            row = {start + i * wide + j: 1.0 for j in range(wide)}
            cells.row({**row, self.first[pair[0]] + i: -1.0}, 0.0)
        for j in range(wide):
            row = {start + i * wide + j: 1.0 for i in range(tall)}
            cells.row({**row, self.first[pair[1]] + j: -1.0}, 0.0)

    def _limit(self, cells: _Cells, row: CostRow) -> None:
        scale = self.problem.scales[row.resource]
        columns: dict[int, float] = {self.overrun: -1.0}
        for name, costs in row.single.items():
            columns |= {self.first[name] + position: cost / scale for position, cost in enumerate(costs)}
        for pair, costs in row.pairs.items():
            start = self.first_pair[pair]
            columns |= {start + position: cost / scale for position, cost in enumerate(costs.ravel())}
        cells.row(columns, (self.problem.limits[row.resource] - row.constant) / scale + self.allowance)

    def choice(self, solution: Floats) -> dict[str, int]:
        """Return the position of each group's width."""
        return {
            name: int(np.argmax(solution[start : start + len(self.problem.widths[name])]))
            for name, start in self.first.items()
        }


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
