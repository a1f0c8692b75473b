"""Whether the readings of a window can be trusted."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from device_agent.sensors.energy.integral import MOST_MW, step_mj, surrounding
from device_agent.sensors.energy.reading import Reading
from device_agent.sensors.energy.sampler import Sampler

_STALLED_INTERVALS = 5
_LEAST_GAP_S = 1.0  # a busy board may hold the sampler up for that long
_MOST_FAILED = 0.05


def why_invalid(sampler: Sampler, interval_s: float, begin_s: float, end_s: float) -> str:
    """Return what is wrong with the readings from `begin_s` to `end_s`; empty if they can be trusted."""
    readings = surrounding(sampler.readings, begin_s, end_s)
    if _reversed(readings, sampler.reversals_s):
        return "the sensor's time went backwards"
    if not readings:
        return "the sensor gave no readings up to its end"
    failed = [moment for moment in sampler.misses_s if begin_s <= moment <= end_s]
    if len(failed) > _MOST_FAILED * (len(failed) + len(readings)):
        return f"{len(failed)} of {len(failed) + len(readings)} readings failed"
    return _stall(readings, failed, interval_s) or _leap(readings)


def longest_gap_s(interval_s: float) -> float:
    """Return how long a sensor may be silent: five of its intervals, at least a second."""
    return max(_STALLED_INTERVALS * interval_s, _LEAST_GAP_S)


def _reversed(readings: Sequence[Reading], reversals_s: Sequence[float]) -> bool:
    """Say whether time went back between two of the readings; without any, whether that may be why."""
    if not readings:
        return bool(reversals_s)
    return any(readings[0].time_s <= moment < readings[-1].time_s for moment in reversals_s)


def _stall(readings: Sequence[Reading], failed: Sequence[float], interval_s: float) -> str:
    for before, after in zip(readings, readings[1:]):
        gap_s = after.time_s - before.time_s
        lost = bisect_left(failed, after.time_s) - bisect_left(failed, before.time_s)
        if gap_s > longest_gap_s(interval_s) or lost > _STALLED_INTERVALS:
            return f"the sensor stalled for {gap_s:.2f} s"
    return ""


def _leap(readings: Sequence[Reading]) -> str:
    """Look for values that no board can have."""
    if readings[0].energy_uj is None:
        leaps = any(abs(reading.power_mw or 0.0) > MOST_MW for reading in readings)
        return "the sensor told an impossible power" if leaps else ""
    broken = any(step_mj(before, after) is None for before, after in zip(readings, readings[1:]))
    return "the counter went backwards or leapt" if broken else ""
