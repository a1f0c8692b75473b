"""Exact allocation as a mixed-integer linear problem, solved by HiGHS through SciPy.

Each group picks one of its widths (binary x: a knapsack as in HALP, Shen et al. 2022, with multiple choice), and each
pair of neighbours a pair of widths (`milp_model.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import milp

from pipeline.search.allocate import Allocation, Problem, answer, widened
from pipeline.search.greedy import GreedyAllocator
from pipeline.search.milp_model import SHARPNESS, Goal, Model
from pipeline.search.solver_output import tidied

SOLVER_SLACK = 4e-6  # of a limit: by so much the solver may overrun it without noticing
NONE: frozenset[str] = frozenset()
_OPTIMAL, _INFEASIBLE = 0, 2


@dataclass(frozen=True)
class _Solved:
    """What the solver said: a choice if it has one, whether that is the best, the objective and its lower bound."""

    choice: dict[str, int] | None
    proven: bool
    infeasible: bool
    value: float
    bound: float


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
        found = self._solve(problem, Goal.KEPT)
        if found.infeasible:
            return self._nearest(problem)
        if found.choice is None:
            return GreedyAllocator().allocate(problem)
        choice = widened(problem, found.choice)
        gap = 0.0 if found.proven else max(-found.bound / SHARPNESS - problem.importance(choice), 0.0)
        return answer(problem, choice, solver=self.name, optimal=found.proven, gap=gap)

    def _nearest(self, problem: Problem) -> Allocation:
        """Return the plan whose worst relative overrun is the smallest; of several, that with the least in all.

        Only limits that cannot be met even alone are overrun, unless the others rule each other out, too.
        """
        alone = frozenset(name for name in problem.limits if self._out_of_reach(problem, name))
        for loose in (alone, frozenset(problem.limits)):
            worst = self._solve(problem, Goal.WORST, loose) if loose else None
            if worst is not None and worst.choice is not None:
                least = self._solve(problem, Goal.SUM, loose, worst.value)
                proven = worst.proven and least.proven
                choice = least.choice or worst.choice
                return answer(problem, choice, solver=self.name, optimal=proven, gap=0.0 if proven else 1.0)
        return GreedyAllocator().allocate(problem)

    def _out_of_reach(self, problem: Problem, resource: str) -> bool:
        """Tell whether a limit cannot be met even where it is the only one."""
        alone = replace(problem, limits={resource: problem.limits[resource]})
        return bool(alone.tight_rows) and self._solve(alone, Goal.KEPT).infeasible

    def _solve(
        self, problem: Problem, goal: Goal, loose: frozenset[str] = NONE, most: float = np.inf
    ) -> _Solved:
        """Ask the solver; again with a margin if it made use of its own tolerance to overrun what must hold."""
        model = Model(problem, loose)
        solved = self._run(model, goal, most)
        if solved.choice is not None and problem.overruns(solved.choice).keys() - loose:
            solved = self._run(Model(problem, loose, SOLVER_SLACK), goal, most)
        return solved

    def _run(self, model: Model, goal: Goal, most: float) -> _Solved:
        with tidied():
            found = milp(
                model.objective(goal),
                integrality=model.integrality(),
                bounds=model.bounds(most * (1 + SOLVER_SLACK) + SOLVER_SLACK),
                constraints=model.constraints(),
                options={"time_limit": self.time_limit_s, "mip_rel_gap": self.relative_gap},
            )
        return _Solved(
            choice=None if found.x is None else model.choice(found.x),
            proven=found.status == _OPTIMAL,
            infeasible=found.status == _INFEASIBLE,
            value=np.inf if found.fun is None else float(found.fun),
            bound=-np.inf if found.mip_dual_bound is None else float(found.mip_dual_bound),
        )
