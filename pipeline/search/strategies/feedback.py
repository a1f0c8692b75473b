"""Ours: the exact allocation on the corrected table, measured, corrected, allocated again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from pipeline.search.allocate import TOLERANCE, Allocation, Allocator, Choice, CostRow, Problem
from pipeline.search.milp import MilpAllocator
from pipeline.search.refine import staying
from pipeline.search.strategies.base import Search, choice_of
from pipeline.search.strategies.protocol import Proposal, Seen, Start

TIMED = frozenset({"latency", "energy"})
ROOM = 1.5  # surprises like the last that the last try leaves room for
LEARNT = 2  # measurements after which a surprise is not the table's any more
_AGAIN = "again"  # the resource of rows that forbid what was measured already


class ExactFeedback(Search):
    """Asks for the plan that keeps the most importance within all budgets, as corrected by all measurements.

    The allocation is that of HALP (Shen et al. 2022, equation 3: a knapsack over the device's latency table) with
    terms for pairs of neighbours (`milp.py`), the correction that of `correction.py`. A plan predicted to be slower
    than the whole model is never asked for, nor is one that was measured: it is ruled out by one more row,
    "at most all but one group as in that plan". Where one measurement is left and nothing has fitted, the budgets of
    time are smaller by half as much again as the last plan took more than predicted. Where no plan is predicted to
    fit, the nearest is measured; the search goes on while the next nearest misses by no more than such predictions
    were off. What the solver proved goes into `why`. Where the losses were measured around a plan (`Start.near`), plans
    stay near it as long as one of those fits.
    """

    name = "feedback"

    def __init__(self, start: Start, allocator: Allocator | None = None) -> None:
        super().__init__(start)
        self.allocator = allocator or MilpAllocator()

    def _next(self) -> Proposal | None:
        problem = self.outlook.problem()
        whole_ms = problem.predicted(problem.full())["latency"]
        limits = self._cautious(never_slower(problem).limits)
        found = self._allocate(self._without_missed(replace(problem, limits=limits)))
        choice = choice_of(problem, found.widths)
        shown = _shown(problem, found)
        repeated = any(proposal.widths == found.widths for proposal, _ in self.told)
        if not found.feasible and (repeated or self._hopeless(problem, choice)):
            self.why = f"no other plan is predicted to fit: {self._certainty(found)}"
            return None
        if repeated:
            self.why = self._proof(found)
            return None
        if problem.predicted(choice)["latency"] > whole_ms * (1 + 2 * TOLERANCE) or choice == problem.full():
            self.why = (
                f"no plan that fits is predicted to be faster than the whole model: {self._certainty(found)}"
            )
            return None
        why = "the most importance within all budgets" if found.feasible else "the nearest to the budgets"
        return Proposal(**vars(shown), strategy=self.name, why=f"{why}: {self._certainty(found)}")

    def _allocate(self, problem: Problem) -> Allocation:
        """Allocate near where the losses were measured; among all widths if nothing there fits."""
        if self.start.near:
            found = self.allocator.allocate(staying(problem, self.start.near))
            if found.feasible:
                return found
        return self.allocator.allocate(problem)

    def _hopeless(self, problem: Problem, choice: Choice) -> bool:
        """Tell whether the nearest plan takes longer by more than predictions for such plans were off so far.

        Bytes are foretold almost exactly: a plan that is nearest in those was measured once, and that is enough.
        """
        off = [abs(_surprise(proposal, seen)) for proposal, seen in self.told if not proposal.feasible]
        overruns = problem.overruns(choice)
        return bool(off) and (
            not TIMED.issuperset(overruns) or max(overruns.values(), default=0.0) > max(off)
        )

    def _cautious(self, limits: Mapping[str, float]) -> dict[str, float]:
        """Leave room for another surprise like the last one where no plan has fitted and one measurement is left."""
        one_left = len(self.told) == self.start.measurements - 1
        if not one_left or len(self.told) < LEARNT or any(self.fits(seen) for _, seen in self.told):
            return dict(limits)
        surprise = max(_surprise(*self.told[-1]), 0.0)
        return {n: limit / (1 + ROOM * surprise if n in TIMED else 1.0) for n, limit in limits.items()}

    def _without_missed(self, problem: Problem) -> Problem:
        """Return the problem without the plans that were measured and did not fit."""
        rows, limits = list(problem.rows), dict(problem.limits)
        for number, (proposal, seen) in enumerate(self.told):
            if not self.fits(seen):
                name = f"{_AGAIN} {number}"
                rows.append(_sameness(problem, choice_of(problem, proposal.widths), name))
                limits[name] = len(problem.widths) - 1.0
        return replace(problem, rows=tuple(rows), limits=limits)

    def _proof(self, found: Allocation) -> str:
        limits = self.outlook.limits
        share = max((seen.fullest(limits) for _, seen in self.told if self.fits(seen)), default=0.0)
        return (
            f"of all plans within the budgets none keeps more than the one that uses {share:.1%}: "
            f"{self._certainty(found)}"
        )

    def _certainty(self, found: Allocation) -> str:
        if found.optimal:
            return f"proven by {found.solver}"
        return f"not proven by {found.solver} (gap {found.gap:.2g})"


def never_slower(problem: Problem) -> Problem:
    """Return the problem with a limit on latency that keeps plans from being slower than the whole model."""
    whole_ms = problem.predicted(problem.full())["latency"]
    return replace(
        problem,
        limits={**problem.limits, "latency": min(whole_ms, problem.limits.get("latency", whole_ms))},
    )


def _surprise(proposal: Proposal, seen: Seen) -> float:
    """Return by what share a measurement took more than predicted."""
    return seen.measurement.latency_ms.p50 / proposal.predicted["latency"] - 1


def _sameness(problem: Problem, choice: dict[str, int], name: str) -> CostRow:
    """Return a row that counts the groups whose width is that of `choice`."""
    same = {group: np.zeros(len(problem.widths[group])) for group in choice}
    for group, position in choice.items():
        same[group][position] = 1.0
    return CostRow(name, "groups as measured before", 0.0, same, {})


def _shown(problem: Problem, found: Allocation) -> Allocation:
    """Leave the rows that only steer out of what an allocation says."""
    known = {row.resource for row in problem.rows}
    return replace(
        found,
        predicted={name: cost for name, cost in found.predicted.items() if name in known},
        binding=tuple(name for name in found.binding if name in known),
    )
