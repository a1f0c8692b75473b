"""The protocol of all searches: ask for widths, measure them, tell what was seen.

A strategy holds no state but its start and what it was told: `ask` gives the same answer until the next `tell`. So a
run that was killed goes on by telling the recorded measurements again, and every source of chance is seeded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.measurement import Measurement
from pipeline.profile import Limit, reached
from pipeline.search.allocate import Allocation, Problem
from pipeline.search.refine import Near

Loss = Callable[[Mapping[str, int]], float]  # of the model cut to these widths, before any training


@dataclass(frozen=True)
class Proposal(Allocation):
    """Widths to be measured next, with all that the allocation knows of them.

    Attributes:
        strategy: Name of the search that asks.
        why: What the widths were chosen for, for people.
    """

    strategy: str = ""
    why: str = ""


@dataclass(frozen=True)
class Seen:
    """What the device measured of a proposal, and the loss where the strategy looks at it."""

    measurement: Measurement
    loss: float | None = None

    def used(self, limits: Sequence[Limit]) -> dict[str, float]:
        """Return the measured share of each budget; infinite where the device could not measure it."""
        shares: dict[str, float] = {}
        for limit in limits:
            value = reached(limit.resource, self.measurement, limit.percentile)
            shares[limit.resource] = float("inf") if value is None else value / limit.value
        return shares

    def fullest(self, limits: Sequence[Limit]) -> float:
        """Return the share of the budget that is nearest to its end, or most over it."""
        return max(self.used(limits).values(), default=0.0)

    def fits(self, limits: Sequence[Limit]) -> bool:
        """Tell whether every budget holds as measured."""
        return self.fullest(limits) <= 1.0


class Outlook(Protocol):
    """What is expected of widths that nobody measured, corrected by all that were."""

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The budgets."""

    @property
    def margin(self) -> float:
        """The share of the budgets that is kept free for the device's own spread."""

    def problem(self) -> Problem:
        """Return costs as the device would measure them (ms, bytes, mJ), with limits in the same units."""

    def learn(self, widths: Mapping[str, int], seen: Seen) -> Outlook:
        """Return the outlook that knows one more measurement."""


@dataclass(frozen=True)
class Start:
    """What every search starts from.

    Attributes:
        outlook: Knows the budgets and the whole model's measurement.
        measurements: The most that may be asked for.
        seed: For searches that draw lots.
        loss: Measures the loss of widths on this computer; without it, kept importance stands in.
        near: Group → first and last position at which its kept importance holds, if it was measured around a plan.
    """

    outlook: Outlook
    measurements: int
    seed: int = 0
    loss: Loss | None = None
    near: Near = field(default_factory=dict)


class Strategy(Protocol):
    """A search."""

    @property
    def name(self) -> str:
        """What the search is called in records and flags."""

    @property
    def why(self) -> str:
        """Why there is nothing more to ask for; empty before that."""

    def ask(self) -> Proposal | None:
        """Return what to measure next, or None: done."""

    def tell(self, proposal: Proposal, seen: Seen) -> None:
        """Take note of what the device measured of a proposal."""
