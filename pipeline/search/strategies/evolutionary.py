"""An evolution of plans, each of which is measured."""

from __future__ import annotations

import random

from pipeline.search.allocate import Problem
from pipeline.search.strategies.base import Search, choice_of, frozen, widths_at
from pipeline.search.strategies.protocol import Proposal
from pipeline.search.strategies.random_plans import drawn

POPULATION = 8
TOURNAMENT = 3
CHILDREN = 32
DRAWS = 400
MUTATION = 0.15


class Evolutionary(Search):
    """Tournament, crossover and mutation over the candidate widths, with one measurement a plan.

    Regularized evolution (Real et al. 2019, algorithm 1: tournament of a sample, the oldest dies) with the uniform
    crossover and the mutation of candidates within a constraint of Guo et al. 2020 ("Single Path One-Shot",
    algorithm 1). The first population are random plans that the table predicts inside the budgets; children that
    it predicts outside are not measured. Fitness is the loss, or kept importance, of plans that fit as measured;
    all others rank below, by their worst overrun.
    """

    name = "evolutionary"
    ends_when_close = False

    def _next(self) -> Proposal | None:
        problem, chance = self.outlook.problem(), self.chance()
        known = self.known()
        size = min(POPULATION, max(1, self.start.measurements // 2))
        if len(self.told) < size:
            found = [
                one for one in drawn(problem, chance, DRAWS) if frozen(widths_at(problem, one)) not in known
            ]
            why = f"plan {len(self.told) + 1} of the first population"
        else:
            found = self._children(problem, chance, known, size)
            why = f"child {len(self.told) - size + 1}"
        if not found:
            self.why = "no new plan is predicted to fit"
            return None
        return self.propose(problem, max(found, key=problem.importance), why)

    def _children(
        self, problem: Problem, chance: random.Random, known: set[tuple[tuple[str, int], ...]], size: int
    ) -> list[dict[str, int]]:
        """Return new plans that are predicted to fit, from parents of the youngest generation."""
        ranked = [(self._fitness(number), number) for number in range(len(self.told))][-size:]
        children = []
        for _ in range(CHILDREN):
            mother, father = (self._parent(problem, chance, ranked) for _ in range(2))
            child = {name: chance.choice((mother[name], father[name])) for name in problem.widths}
            for name, choices in problem.widths.items():
                if chance.random() < MUTATION:
                    child[name] = chance.randrange(len(choices))
            if not problem.overruns(child) and frozen(widths_at(problem, child)) not in known:
                children.append(child)
        return children

    def _parent(
        self, problem: Problem, chance: random.Random, ranked: list[tuple[tuple[bool, float], int]]
    ) -> dict[str, int]:
        _, winner = max(chance.sample(ranked, min(TOURNAMENT, len(ranked))))
        return choice_of(problem, self.told[winner][0].widths)

    def _fitness(self, number: int) -> tuple[bool, float]:
        proposal, seen = self.told[number]
        if not self.fits(seen):
            return False, -seen.fullest(self.outlook.limits)
        return True, proposal.kept_importance if seen.loss is None else -seen.loss
