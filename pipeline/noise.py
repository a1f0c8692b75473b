"""The device's own spread: how far a figure may lie from what it is when the same model is measured again.

A verdict that lies within the spread is one that another measurement may turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.measurement import Measurement
from pipeline.profile import Limit, reached

SMALLEST_ROOM = 0.01
LARGEST_ROOM = 0.03
FLAGGED_SPREAD = (
    0.025  # of a latency from process to process where others are busy, however steady each process was
)
MEMORY_SPREAD_BYTES = 250_000  # of one model's peak from process to process, whatever its size
SLOWED = "slowed"  # the agent's flag
DISTURBED = 0.03  # of the cores' time: from there on the agent flags a measurement


def spread(measurements: Sequence[Measurement]) -> float:
    """Return by what share the latency of one model may be off, as its measurements show.

    Half of the range between the medians of five windows (`Measurement.steadiness`), of the least steady one; more
    where one was flagged; the range between the measurements where that is more; and where the processor was below its
    full pace nearly all the time, by how much. Such a one says nothing where a later one was at full pace.
    """
    if SLOWED not in measurements[-1].flags:
        measurements = [each for each in measurements if SLOWED not in each.flags]
    medians = [each.latency_ms.p50 for each in measurements]
    own = [max(each.steadiness / 2, FLAGGED_SPREAD if each.flags else 0.0) for each in measurements]
    slowed = [(each.during.slowdown or 1.0) - 1 for each in measurements if SLOWED in each.flags]
    return max(max(medians) / min(medians) - 1, *own, *slowed)


def room(resource: str, measured: Measurement) -> float:
    """Return the share of a figure that a budget must leave free to hold again: of times the spread, 1 % to 3 %."""
    own = _spread(resource, [measured])
    return max(SMALLEST_ROOM, min(own, LARGEST_ROOM)) if resource in {"latency", "energy"} else own


def close_calls(measurements: Sequence[Measurement], limits: Sequence[Limit]) -> Mapping[str, float]:
    """Return the budgets whose verdict lies within the spread of one model's measurements, the last of which counts.

    Returns:
        Resource → how far over its budget (below it: negative), as a share of it.
    """
    found: dict[str, float] = {}
    for limit in limits:
        value = reached(limit.resource, measurements[-1], limit.percentile)
        over = 0.0 if value is None else value / limit.value - 1
        if value is not None and abs(over) < _spread(limit.resource, measurements):
            found[limit.resource] = over
    return found


def doubt(measurements: Sequence[Measurement], limits: Sequence[Limit]) -> str:
    """Say which verdicts another measurement of the same model may turn, and why; empty where there are none."""
    close = close_calls(measurements, limits)
    if not close:
        return ""
    said = [
        f"{name} is {_percent(abs(over))} {'over' if over > 0 else 'below'} its budget, but differs by "
        f"up to {_percent(_spread(name, measurements))} from one measurement to the next"
        for name, over in close.items()
    ]
    others = max((each.during.others_share or 0.0 for each in measurements), default=0.0)
    if others > DISTURBED:
        said.append(f"others took {_percent(others)} of the cores' time")
    return "; ".join(said)


def _spread(resource: str, measurements: Sequence[Measurement]) -> float:
    """Return by what share of its last value a figure may be off."""
    if resource in {"latency", "energy"}:
        return spread(measurements)
    peak = measurements[-1].model_peak_bytes
    return MEMORY_SPREAD_BYTES / peak if resource == "model_peak" and peak else 0.0


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
