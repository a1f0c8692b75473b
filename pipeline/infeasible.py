"""What to say when no candidate meets the budgets: what is in the way, how near the nearest came, what would hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.candidate import Candidate, nearest
from pipeline.errors import InfeasibleError
from pipeline.measurement import Measurement
from pipeline.noise import doubt, room
from pipeline.profile import UNITS, Limit

DIGITS = 3  # significant ones, of a budget in ms, MB or mJ
LOOSEN = "loosen what is in the way, or start from a smaller model"
QUIETER = "let nothing else run on the device, or measure longer: min_duration_s in the profile's [measuring]"
ROUNDING = 1e-9  # what floats add to a whole number is not rounded up


def closest_miss(
    candidates: Sequence[Candidate], limits: Sequence[Limit], binding: Sequence[str], why: str = ""
) -> InfeasibleError:
    """Say which budgets are in the way, how near the nearest measured candidate came, and what would hold.

    Args:
        candidates: all that were measured, one of which at least misses a budget.
        limits: the budgets; the device could measure all of them.
        binding: resources in the way of the plan that was asked for last, as predicted.
        why: the search ended; told where it did not even ask for a first plan.
    """
    near = nearest([each for each in candidates if not each.meets(limits)], limits)
    missed = near.overruns(limits)
    detail = ", ".join(f"{name} {100 * share:.1f} % over" for name, share in missed.items())
    names = list(dict.fromkeys((*missed, *binding)))
    verb = "is" if len(names) == 1 else "are"
    flags = " ".join(f"--budget {holding(limit, near)}" for limit in limits if limit.resource in missed)
    doubts = doubt(measured_alike(candidates, near), limits)
    return InfeasibleError(
        f"the budgets can't be met: {' and '.join(names)} {verb} in the way; "
        f"nearest measured is {near.name!r} ({detail}); as measured, this would hold: {flags}"
        + (f"; {why}" if why and near.stage == "baseline" else "")
        + (f"; {doubts}" if doubts else ""),
        hint=QUIETER if doubts else LOOSEN,
    )


def holding(limit: Limit, candidate: Candidate) -> str:
    """Return the budget that `candidate` would hold, as it is given by flag ("latency=43%", "file=0.52MB").

    In the form in which the budget was stated, rounded up, with room for the device's spread.
    """
    value = limit.value * candidate.used([limit])[limit.resource]
    value *= 1 + room(limit.resource, candidate.measurement)
    percentile = f"{limit.percentile}:" if limit.percentile != "p50" else ""
    if limit.stated.endswith("%"):
        percent = float(limit.stated.removesuffix("%")) * value / limit.value
        return f"{limit.resource}={percentile}{math.ceil(percent - ROUNDING)}%"
    decimals = DIGITS - 1 - math.floor(math.log10(value))
    rounded = math.ceil(value * 10.0**decimals - ROUNDING) / 10.0**decimals
    number = f"{rounded:.{max(decimals, 1)}f}".rstrip("0").rstrip(".")
    return f"{limit.resource}={percentile}{number}{UNITS[limit.resource]}"


def measured_alike(candidates: Sequence[Candidate], one: Candidate) -> list[Measurement]:
    """Return all measurements of models as fast as `one`: latency does not depend on the weights."""
    return [
        each.measurement
        for each in candidates
        if (each.widths, each.measurement.runtime, each.measurement.threads)
        == (one.widths, one.measurement.runtime, one.measurement.threads)
    ]
