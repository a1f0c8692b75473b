"""From readings to energy: the trapezoid over real timestamps, and counters with their wraps taken out."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Optional

from device_agent.sensors.energy.reading import Reading

# More than any board takes: a counter that seems to wrap or leap by more was reset or misread.
MOST_MW = 10e6


def integrate(readings: Sequence[Reading], begin_s: float, end_s: float) -> float:
    """Return the energy between two moments in mJ; between two readings, values are taken as a straight line.

    Args:
        readings: ascending in time, all of power or all of one counter.
        begin_s: not before the first reading.
        end_s: not after the last reading.

    Raises:
        ValueError: the readings do not span the time.
    """
    around = surrounding(readings, begin_s, end_s)
    if not around:
        raise ValueError(f"no readings from {begin_s:.3f} to {end_s:.3f} s")
    times = [reading.time_s for reading in around]
    counts = around[0].energy_uj is not None
    values = _counted_mj(around) if counts else [reading.power_mw or 0.0 for reading in around]
    first, last = _at(times, values, begin_s), _at(times, values, end_s)
    if counts:
        return last - first
    inside = slice(bisect_right(times, begin_s), bisect_left(times, end_s))
    return _trapezoid([begin_s, *times[inside], end_s], [first, *values[inside], last])


def surrounding(readings: Sequence[Reading], begin_s: float, end_s: float) -> Sequence[Reading]:
    """Return the readings from the last one at or before `begin_s` to the first one at or after `end_s`.

    Empty if the readings do not reach that far.
    """
    times = [reading.time_s for reading in readings]
    first, last = bisect_right(times, begin_s) - 1, bisect_left(times, end_s)
    return readings[first : last + 1] if first >= 0 and last < len(times) else []


def step_mj(before: Reading, after: Reading) -> Optional[float]:
    """Return the energy from one counter reading to the next; `None` if neither growth nor a wrap explains it."""
    step_uj = (after.energy_uj or 0.0) - (before.energy_uj or 0.0)
    if step_uj < 0 and after.wraps_at_uj:
        step_uj += after.wraps_at_uj
    most_uj = MOST_MW * (after.time_s - before.time_s) * 1000
    return step_uj / 1000 if 0 <= step_uj <= most_uj else None


def _counted_mj(readings: Sequence[Reading]) -> list[float]:
    """Return the counter in mJ since the first reading."""
    counted = [0.0]
    for before, after in zip(readings, readings[1:]):
        counted.append(counted[-1] + (step_mj(before, after) or 0.0))
    return counted


def _at(times: Sequence[float], values: Sequence[float], time_s: float) -> float:
    """Return the value at a moment, on the straight line between its neighbours."""
    after = min(bisect_right(times, time_s), len(times) - 1)
    before = max(after - 1, 0)
    span_s = times[after] - times[before]
    share = (time_s - times[before]) / span_s if span_s else 0.0
    return values[before] + (values[after] - values[before]) * share


def _trapezoid(times: Sequence[float], values: Sequence[float]) -> float:
    pairs = zip(times, times[1:], values, values[1:])
    return sum((later - earlier) * (a + b) / 2 for earlier, later, a, b in pairs)
