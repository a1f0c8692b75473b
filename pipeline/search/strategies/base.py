"""What the searches have in common: what they were told, when they end, and how a choice becomes a proposal."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping

from pipeline.search.allocate import Choice, Problem, answer
from pipeline.search.strategies.protocol import Proposal, Seen, Start

SLACK = 0.01  # of a budget, beside the margins: what lands nearer is not worth another measurement


class Search(ABC):
    """A search that ends when a measurement lands close enough below a budget, or when no more may be made."""

    name: str
    ends_when_close = True  # else only a better plan counts, however much of the budget is used

    def __init__(self, start: Start) -> None:
        self.start = start
        self.outlook = start.outlook
        self.told: list[tuple[Proposal, Seen]] = []
        self.why = ""

    def ask(self) -> Proposal | None:
        """See `Strategy.ask`."""
        self.why = self._closing()
        return None if self.why else self._next()

    def tell(self, proposal: Proposal, seen: Seen) -> None:
        """See `Strategy.tell`."""
        self.outlook = self.outlook.learn(proposal.widths, seen)
        self.told.append((proposal, seen))

    @abstractmethod
    def _next(self) -> Proposal | None:
        """Return what to measure next, or None after `why` was set."""

    @property
    def close_enough(self) -> float:
        """The share of a budget from which on another measurement could win little."""
        return 1 - 2 * self.outlook.margin - SLACK

    def fits(self, seen: Seen) -> bool:
        """Tell whether every budget holds as measured."""
        return seen.fits(self.outlook.limits)

    def chance(self) -> random.Random:
        """Return a source of chance that is the same whenever the same was told."""
        return random.Random(f"{self.name} {self.start.seed} {len(self.told)}")  # noqa: S311 - no secret

    def known(self) -> set[tuple[tuple[str, int], ...]]:
        """Return all widths that were measured, hashable."""
        return {frozen(proposal.widths) for proposal, _ in self.told}

    def propose(self, problem: Problem, choice: Choice, why: str) -> Proposal:
        """Return a choice of widths as a proposal that nobody proved to be the best."""
        made = answer(problem, dict(choice), solver=self.name, optimal=False, gap=1.0)
        return Proposal(**vars(made), strategy=self.name, why=why)

    def _closing(self) -> str:
        share = max(
            (seen.fullest(self.outlook.limits) for _, seen in self.told if self.fits(seen)), default=0.0
        )
        if self.ends_when_close and share >= self.close_enough:
            return f"{share:.1%} of the budget are used"
        if len(self.told) >= self.start.measurements:
            return f"all {self.start.measurements} measurements are made"
        return ""


def frozen(widths: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """Return widths as a value that can be in a set."""
    return tuple(sorted(widths.items()))


def widths_at(problem: Problem, choice: Choice) -> dict[str, int]:
    """Return the widths at the chosen positions."""
    return {name: problem.widths[name][position] for name, position in choice.items()}


def choice_of(problem: Problem, widths: Mapping[str, int]) -> dict[str, int]:
    """Return the positions of widths among the candidates."""
    return {name: problem.widths[name].index(widths[name]) for name in problem.widths}
