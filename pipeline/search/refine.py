"""Loss curves taken anew around a plan, and the plan that they lead to: what groups lose together.

The curves of `sensitivity.py` hold where all other groups are whole. Groups that are cut together lose more than the
sum of what each loses alone, and not in equal measure. So each group is tried a few widths up and down with all other
groups as in the plan, and the allocation is solved again between these widths alone: the step of a trust-region method
with a separable model (Conn, Gould, Toint 2000, "Trust-Region Methods", algorithm 6.1.1), whose trial is the loss of
the new plan as a whole. A step over the whole range leads astray, since a block that goes changes what all others lose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.search.allocate import Allocator, Choice, CostRow, Floats, Problem
from pipeline.search.sensitivity import Done, Measure, shares_kept

REACH = 3  # candidate widths that a group may step up or down at once
FLAT = 1e-6  # of a curve's height
AWAY = "away"  # the resource of the row that keeps plans near

Near = Mapping[str, tuple[int, int]]  # group → first and last position among its candidate widths
Curves = Mapping[str, Sequence[float]]  # group → rise in loss at each of its candidate widths


@dataclass(frozen=True)
class Refined:
    """Curves around one plan and what they led to.

    Attributes:
        curves: Group → rise in loss at each width, below the full width.
        near: Group → first and last position at which the curves hold.
        widths: The plan that keeps the most by these curves, near the one that they were taken around; or that one
            itself, where no step lowered the loss.
        loss: Of the model cut to `widths`, measured as a whole.
    """

    curves: dict[str, list[float]]
    near: dict[str, tuple[int, int]]
    widths: dict[str, int]
    loss: float


def refine(
    problem: Problem,
    start: Refined,
    measure: Measure,
    allocator: Allocator,
    done: Done,
    reach: int = REACH,
) -> Refined:
    """Take curves around the plan of `start`, and step to the plan that they prefer if its loss is lower.

    The loss is measured at the ends of the reach, two for each group; between them and the plan it is taken to run as
    the known curve does. Where a step of up to `reach` widths a group does not lower the loss, shorter ones are tried.

    Args:
        problem: The costs and the limits.
        start: The plan, its loss, and the curves that led to it; they serve beyond the reach.
        measure: The loss of the model cut to the given widths.
        allocator: Chooses the plan.
        done: Is called with the number of measured and of all points.
        reach: Candidate widths that a group may step up or down.
    """
    centre = {name: problem.widths[name].index(width) for name, width in start.widths.items()}
    found = _losses(problem, start, centre, reach, measure, done)
    for shorter in range(reach, 0, -1):
        near = _near(problem, centre, shorter)
        curves = {name: _curve(found[name], near[name], start.curves[name]) for name in problem.widths}
        step = allocator.allocate(staying(replace(problem, kept=shares_kept(curves)), near))
        if step.feasible and step.widths != start.widths:
            loss = measure(step.widths)
            if loss < start.loss:
                return Refined(curves, near, step.widths, loss)
    return start


def staying(problem: Problem, near: Near) -> Problem:
    """Return the problem whose plans stay within `near`."""
    away = {}
    for name, (first, last) in near.items():
        positions = np.arange(len(problem.widths[name]))
        away[name] = ((positions < first) | (positions > last)).astype(np.float64)
    row = CostRow(AWAY, "groups away from where the losses were measured", 0.0, away, {})
    return replace(problem, rows=(*problem.rows, row), limits={**problem.limits, AWAY: 0.0})


def _near(problem: Problem, centre: Choice, reach: int) -> dict[str, tuple[int, int]]:
    return {
        name: (max(centre[name] - reach, 0), min(centre[name] + reach, len(choices) - 1))
        for name, choices in problem.widths.items()
    }


def _losses(
    problem: Problem, start: Refined, centre: Choice, reach: int, measure: Measure, done: Done
) -> dict[str, Floats]:
    """Return group → loss at each of its widths within reach (beyond it that at the end), others as in the plan."""
    near = _near(problem, centre, reach)
    points = [(name, end) for name, ends in near.items() for end in ends if end != centre[name]]
    found = {name: {position: start.loss} for name, position in centre.items()}
    for number, (name, position) in enumerate(points):
        found[name][position] = measure({**start.widths, name: problem.widths[name][position]})
        done(number + 1, len(points))
    return {name: _between(losses, start.curves[name]) for name, losses in found.items()}


def _between(losses: Mapping[int, float], known: Sequence[float]) -> Floats:
    """Return the loss at each width: between those measured it runs as the known curve does, beyond them it is flat."""
    run = np.arange(len(known)) * FLAT * max(known[0], FLAT) - np.asarray(
        known
    )  # rises even where the curve is flat
    measured = sorted(losses)
    between: Floats = np.interp(run, run[measured], [losses[position] for position in measured])
    return between


def _curve(found: Floats, near: tuple[int, int], known: Sequence[float]) -> list[float]:
    """Return the rise in loss at each width: as found within `near`, beyond it with the slope that was known."""
    first, last = near
    losses = [
        found[min(max(position, first), last)] + known[position] - known[min(max(position, first), last)]
        for position in range(len(known))
    ]
    rising = np.maximum.accumulate(losses[::-1])[::-1]
    return [float(loss - rising[-1]) for loss in rising]
