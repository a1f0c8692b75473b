"""Fit: choose widths, build the slimmed model, measure it on the device, correct the prediction; again until it fits.

A round costs an export and a measurement, a few seconds: nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.candidate import Built, Candidate, nearest
from pipeline.errors import InfeasibleError
from pipeline.feedback import Feedback
from pipeline.profile import Limit
from pipeline.search import Allocation, Allocator, build_problem, kept_indices
from pipeline.survey import Survey
from pipeline.workshop import Workshop

CLOSE_ENOUGH = 0.93  # of the latency budget: what lands nearer is not worth another measurement


@dataclass(frozen=True)
class Fitted:
    """How a fit ended: the best candidate that meets the budgets, all that were measured, and what was learnt."""

    best: Candidate | None
    candidates: tuple[Candidate, ...]
    feedback: Feedback
    binding: tuple[str, ...]


def fit(
    shop: Workshop,
    baseline: Candidate,
    ground: Survey,
    limits: Sequence[Limit],
    feedback: Feedback,
    allocator: Allocator,
    *,
    first: int,
    rounds: int,
) -> Fitted:
    """Run up to `rounds` rounds of allocate → slim → convert → push → measure → learn.

    A round after one that met the budgets is only run while much of the latency budget is unused; the same widths
    are not measured twice in one fit.
    """
    tried: list[Candidate] = []
    best: Candidate | None = None
    binding: tuple[str, ...] = ()
    for number in range(first, first + rounds):
        allocation = _allocate(shop, ground, limits, feedback, allocator, f"fit {number}")
        binding = allocation.binding
        if any(candidate.widths == allocation.widths for candidate in (baseline, *tried)):
            break
        candidate = _measure(shop, baseline.built, ground, feedback, allocation, f"fit {number}")
        tried.append(candidate)
        feedback = feedback.learn(ground, candidate)
        if candidate.meets(limits):
            best = max(filter(None, (best, candidate)), key=lambda each: each.kept_importance or 0.0)
            if _close(candidate, limits):
                break
        elif not allocation.feasible:
            break
    return Fitted(best, tuple(tried), feedback, binding)


def _allocate(
    shop: Workshop,
    ground: Survey,
    limits: Sequence[Limit],
    feedback: Feedback,
    allocator: Allocator,
    name: str,
) -> Allocation:
    problem = build_problem(
        ground.graph, ground.table, ground.kept, feedback.table_limits(limits), ground.widths
    )
    return shop.step(f"{name}: allocate", Allocation, lambda _: allocator.allocate(problem))


def _measure(
    shop: Workshop, baseline: Built, ground: Survey, feedback: Feedback, allocation: Allocation, name: str
) -> Candidate:
    plan = ground.graph.plan(kept_indices(ground.importance, allocation.widths))
    table_ms = ground.table_ms(allocation.widths)
    built = shop.step(
        f"{name}: slim and convert", Built, lambda _: shop.slim(baseline, plan, name.replace(" ", "-"))
    )
    return shop.candidate(
        name,
        "fit",
        built,
        widths=allocation.widths,
        table_ms=table_ms,
        calibrated_ms=feedback.predict_ms(table_ms),
        kept_importance=allocation.kept_importance,
    )


def _close(candidate: Candidate, limits: Sequence[Limit]) -> bool:
    """Tell whether some budget is nearly used up, so that another round could win little."""
    return any(share >= CLOSE_ENOUGH for share in candidate.used(limits).values())


def closest_miss(
    candidates: Sequence[Candidate], limits: Sequence[Limit], binding: Sequence[str]
) -> InfeasibleError:
    """Say which budget is in the way, and how near the nearest measured candidate came."""
    near = nearest(candidates, limits)
    missed = near.overruns(limits)
    resources = ", ".join(dict.fromkeys((*missed, *binding))) or "latency"
    detail = ", ".join(f"{name} {100 * share:.1f} % over" for name, share in missed.items())
    return InfeasibleError(
        f"the budgets can't be met: {resources} is in the way; nearest measured is {near.name!r} ({detail})",
        hint="loosen that budget, or start from a smaller model",
    )
