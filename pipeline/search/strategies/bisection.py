"""Bisection over plans in a row, from the narrowest to the widest, by what the device measures."""

from __future__ import annotations

from abc import abstractmethod

from pipeline.search.allocate import Problem
from pipeline.search.strategies.base import Search, frozen, widths_at
from pipeline.search.strategies.protocol import Proposal


class Bisection(Search):
    """A search along one number: between the widest plan that fitted and the narrowest that did not.

    That takes plans further along the row to cost more, which a staircase may break; the end is then a plan that
    fits, but perhaps not the widest.
    """

    @abstractmethod
    def row(self, problem: Problem) -> list[tuple[float, dict[str, int]]]:
        """Return (value of the number, choice) from the narrowest plan to the widest."""

    def _next(self) -> Proposal | None:
        problem = self.outlook.problem()
        steps = _distinct(self.row(problem))
        place = {frozen(widths_at(problem, choice)): number for number, (_, choice) in enumerate(steps)}
        fitted, missed = -1, len(steps)
        for proposal, seen in self.told:
            number = place[frozen(proposal.widths)]
            if self.fits(seen):
                fitted = max(fitted, number)
            else:
                missed = min(missed, number)
        if missed - fitted <= 1:
            self.why = "not even the narrowest fits" if fitted < 0 else "the next wider plan does not fit"
            return None
        value, choice = steps[(fitted + missed) // 2]
        return self.propose(problem, choice, f"{self.name} {value:.4g}")


def _distinct(row: list[tuple[float, dict[str, int]]]) -> list[tuple[float, dict[str, int]]]:
    """Leave out plans equal to the one before, and the whole model at the end, which is known not to fit."""
    kept: list[tuple[float, dict[str, int]]] = []
    for value, choice in row:
        if not kept or kept[-1][1] != choice:
            kept.append((value, choice))
    return kept[:-1]
