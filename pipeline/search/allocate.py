"""What an allocator is given and what it answers: a width for each group, within the limits.

A problem is linear in two kinds of terms: what one group costs at each of its widths, and what two
neighbouring groups cost together at each pair of widths. Plain data; nothing here knows of models, tables
or devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError

Floats = NDArray[np.float64]
Choice = Mapping[str, int]  # group → position among its candidate widths

TOLERANCE = 1e-6  # of a limit: rounding, far below what any device can measure


@dataclass(frozen=True)
class CostRow:
    """One cost as a function of the chosen widths; a resource's cost is the highest of its rows.

    Attributes:
        resource: "latency" (ms), "file" (bytes) or "model_peak" (bytes).
        name: What the row is about, for people.
        constant: The part that no width changes.
        single: Group → cost at each of its widths, shape (widths,).
        pairs: Two groups → cost at each pair of widths, shape (widths of the first, widths of the second).
    """

    resource: str
    name: str
    constant: float
    single: Mapping[str, Floats]
    pairs: Mapping[tuple[str, str], Floats]

    def value(self, choice: Choice) -> float:
        """Return the cost of a choice of widths."""
        alone = sum(float(costs[choice[name]]) for name, costs in self.single.items())
        together = sum(float(costs[choice[a], choice[b]]) for (a, b), costs in self.pairs.items())
        return self.constant + alone + together

    def highest(self) -> float:
        """Return a value that no choice exceeds."""
        terms = (*self.single.values(), *self.pairs.values())
        return self.constant + sum(float(costs.max()) for costs in terms)


@dataclass(frozen=True)
class Problem:
    """Choose one width a group so that the most importance is kept within all limits.

    Attributes:
        widths: Group → its candidate widths, ascending.
        kept: Group → share of the model's whole importance kept at each of its widths, shape (widths,).
        rows: The costs.
        limits: Resource → the most it may cost, in the unit of its rows; others are only predicted.
    """

    widths: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, Floats]
    rows: tuple[CostRow, ...]
    limits: Mapping[str, float]

    def __post_init__(self) -> None:
        """Refuse limits that no row can be held against.

        Raises:
            InputError: a limit is not a number, or on a resource that is not predicted.
        """
        known = {row.resource for row in self.rows}
        for resource, limit in self.limits.items():
            if resource not in known:
                raise InputError(
                    f"no cost is known for {resource!r}", hint=f"limit one of {', '.join(sorted(known))}"
                )
            if np.isnan(limit):
                raise InputError(f"the limit on {resource!r} is not a number")

    @cached_property
    def tight_rows(self) -> tuple[CostRow, ...]:
        """The rows that some choice of widths could bring over their limit."""
        return tuple(
            row
            for row in self.rows
            if row.resource in self.limits and row.highest() > self.limits[row.resource]
        )

    @cached_property
    def scales(self) -> dict[str, float]:
        """What an overrun is relative to: the limit, or the cost at full widths where it is not positive."""
        highest = self.predicted(self.full())
        return {name: limit if limit > 0 else max(highest[name], 1.0) for name, limit in self.limits.items()}

    def full(self) -> dict[str, int]:
        """Return the choice of every group's widest."""
        return {name: len(choices) - 1 for name, choices in self.widths.items()}

    def importance(self, choice: Choice) -> float:
        """Return the share of the whole importance that a choice keeps, 0 to 1."""
        return sum(float(self.kept[name][position]) for name, position in choice.items())

    def predicted(self, choice: Choice) -> dict[str, float]:
        """Return what each resource costs."""
        costs: dict[str, float] = {}
        for row in self.rows:
            costs[row.resource] = max(row.value(choice), costs.get(row.resource, -np.inf))
        return costs

    def overruns(self, choice: Choice) -> dict[str, float]:
        """Return by what share each missed limit is overrun; empty when all are met."""
        missed: dict[str, float] = {}
        for row in self.tight_rows:
            over = (row.value(choice) - self.limits[row.resource]) / self.scales[row.resource]
            if over > max(TOLERANCE, missed.get(row.resource, 0.0)):
                missed[row.resource] = over
        return missed


@dataclass(frozen=True)
class Allocation:
    """The widths that an allocator chose, and how sure it is of them.

    Attributes:
        widths: Group → units kept.
        predicted: Resource → cost at these widths.
        kept_importance: Share of the model's whole importance, 0 to 1.
        optimal: No other plan keeps more (or, where not feasible, comes nearer): proven.
        gap: Share of importance that an even better plan could keep at most beyond this one; 0 when optimal.
        solver: Name of the allocator.
        feasible: All limits are met as predicted.
        binding: The resources whose limits are in the way when not feasible.
    """

    widths: dict[str, int]
    predicted: dict[str, float]
    kept_importance: float
    optimal: bool
    gap: float
    solver: str
    feasible: bool
    binding: tuple[str, ...] = ()


class Allocator(Protocol):
    """Chooses widths."""

    @property
    def name(self) -> str:
        """What the allocator is called in records."""

    def allocate(self, problem: Problem) -> Allocation:
        """Return the best widths within the limits, or the nearest ones where none are."""


def answer(
    problem: Problem, choice: Choice, *, solver: str, optimal: bool, gap: float, binding: tuple[str, ...] = ()
) -> Allocation:
    """Put a choice into words; whether it is feasible is computed here, not taken from a solver."""
    missed = problem.overruns(choice)
    return Allocation(
        widths={name: problem.widths[name][position] for name, position in choice.items()},
        predicted=problem.predicted(choice),
        kept_importance=problem.importance(choice),
        optimal=optimal,
        gap=gap,
        solver=solver,
        feasible=not missed,
        binding=(binding or tuple(sorted(missed))) if missed else (),
    )


def widened(problem: Problem, choice: Choice) -> dict[str, int]:
    """Widen groups as long as all limits hold, each time the one that gains the most importance.

    Of equal gains the first group's widest goes first, so that ties between plans end the same way every
    time.
    """
    best = dict(choice)
    while True:
        gains = [
            (float(problem.kept[name][wider] - problem.kept[name][position]), -number, wider, name)
            for number, (name, position) in enumerate(best.items())
            for wider in range(position + 1, len(problem.widths[name]))
        ]
        for gain, _, wider, name in sorted(gains, reverse=True):
            if gain >= 0 and not problem.overruns({**best, name: wider}):
                best[name] = wider
                break
        else:
            return best
