"""The best of many random plans."""

from __future__ import annotations

import random

from pipeline.search.allocate import Problem
from pipeline.search.strategies.base import Search, frozen, widths_at
from pipeline.search.strategies.protocol import Proposal

DRAWS = 1000


class RandomPlans(Search):
    """Of many random plans predicted to be inside the budgets, the one that keeps the most importance.

    The baseline that a search must beat (Li & Talwalkar 2020, "Random Search and Reproducibility for NAS"). It ends
    when no new draw keeps more than what was measured to fit.
    """

    name = "random"
    ends_when_close = False

    def _next(self) -> Proposal | None:
        problem = self.outlook.problem()
        kept = max(
            (proposal.kept_importance for proposal, seen in self.told if self.fits(seen)), default=-1.0
        )
        known = self.known()
        found = [
            one
            for one in drawn(problem, self.chance(), DRAWS)
            if frozen(widths_at(problem, one)) not in known
        ]
        best = max(found, key=problem.importance, default=None)
        if best is None:
            self.why = f"none of {DRAWS} random plans is predicted to fit"
        elif problem.importance(best) <= kept:
            self.why = f"none of {len(found)} random plans that are predicted to fit keeps more"
        else:
            return self.propose(
                problem, best, f"the best of {len(found)} random plans that are predicted to fit"
            )
        return None


def drawn(problem: Problem, chance: random.Random, count: int) -> list[dict[str, int]]:
    """Return those of `count` random plans that are predicted to fit, the whole model never among them.

    Each plan first draws how deep it cuts, so that plans of all sizes come up, not only those around the middle.
    """
    found = []
    whole = problem.full()
    for _ in range(count):
        depth = chance.random()
        plan = {
            name: max(0, len(choices) - 1 - round(2 * depth * chance.random() * (len(choices) - 1)))
            for name, choices in problem.widths.items()
        }
        if plan != whole and not problem.overruns(plan):
            found.append(plan)
    return found
