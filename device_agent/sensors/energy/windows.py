"""Energy per inference in windows, the way MLPerf Tiny does it.

A window is a stretch of back-to-back inferences; its whole energy divided by its inferences is one result, and
the median over the windows counts (Banbury et al. 2021, "MLPerf Tiny Benchmark", with the rules of EEMBC's
runner: at least ten seconds a window). Gross comes first: it is what the board's supply delivers while it
infers. Net takes off what the same board draws idle, in a window right before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, Optional

from device_agent.sensors.energy.integral import integrate
from device_agent.sensors.energy.reading import EnergySensor
from device_agent.sensors.energy.sampler import Sampler
from device_agent.sensors.energy.validity import longest_gap_s, why_invalid
from device_agent.statistics import median

__all__ = ["EnergyFigures", "Sampler", "Window", "integrate", "measure"]

Tell = Callable[[dict[str, Any]], None]

_ROUNDING = 1e-9  # of the gross energy: a net figure below it is what floating-point numbers left over


@dataclass(frozen=True)
class Window:
    """One stretch of inferences.

    Attributes:
        duration_s: from the begin of its first inference to the end of its last.
        inferences: how many it held.
        energy_mj: of the whole window; `None` if invalid.
        samples: readings within it.
        rate_hz: readings a second.
        valid: whether the readings can be trusted.
        why: why not; empty if valid.
    """

    duration_s: float
    inferences: int
    energy_mj: Optional[float]
    samples: int
    rate_hz: float
    valid: bool
    why: str


@dataclass(frozen=True)
class EnergyFigures:
    """What the windows say together.

    Attributes:
        method: the sensor's.
        estimated: whether the sensor models rather than sees part of the power.
        gross_mj: median over the valid windows of energy by inferences; `None` if fewer than half are valid.
        net_mj: gross minus idle power times the time of one inference; `None` without a valid idle window.
        idle_mw: mean power of the idle window.
        windows: all of them, the invalid ones too.
        rate_hz: readings a second, median over the windows.
        sampling_cost: share of one core that reading the sensor took.
        missing: why `gross_mj` is `None`; empty if it is not.
    """

    method: str
    estimated: bool
    gross_mj: Optional[float]
    net_mj: Optional[float]
    idle_mw: Optional[float]
    windows: tuple[Window, ...]
    rate_hz: float
    sampling_cost: float
    missing: str


@dataclass(frozen=True)
class _Stretch:
    """When something ran; the monotonic clock."""

    begin_s: float
    end_s: float
    inferences: int


def measure(
    call: Callable[[], object],
    sensor: EnergySensor,
    *,
    windows: int,
    window_s: float,
    idle_s: float,
    tell: Tell,
) -> EnergyFigures:
    """Run inferences in windows and return their energy.

    Args:
        call: does one inference; should be warm.
        sensor: what to read.
        windows: how many.
        window_s: how long each lasts at least, in seconds.
        idle_s: how long to watch the idle board first; 0 for not at all.
        tell: is given {"phase": "idle" or "energy", "done": n, "of": m} between the windows.
    """
    with Sampler(sensor) as sampler:
        idle = _watch_idle(idle_s, tell)
        stretches = []
        for done in range(windows):
            tell({"phase": "energy", "done": done, "of": windows})
            stretches.append(_run_for(call, window_s))
        sampler.wait_beyond(monotonic(), longest_gap_s(sensor.interval_s))
    judged = tuple(_judge(sampler, sensor, stretch) for stretch in stretches)
    return _figures(sensor, judged, _judge(sampler, sensor, idle) if idle else None, sampler.cost)


def _watch_idle(idle_s: float, tell: Tell) -> Optional[_Stretch]:
    if idle_s <= 0:
        return None
    tell({"phase": "idle", "done": 0, "of": 1})
    begin_s = monotonic()
    sleep(idle_s)
    return _Stretch(begin_s, monotonic(), 0)


def _run_for(call: Callable[[], object], least_s: float) -> _Stretch:
    clock = monotonic
    inferences = 0
    begin_s = now_s = clock()
    until_s = begin_s + least_s
    while now_s < until_s or not inferences:
        call()
        inferences += 1
        now_s = clock()
    return _Stretch(begin_s, now_s, inferences)


def _judge(sampler: Sampler, sensor: EnergySensor, ran: _Stretch) -> Window:
    duration_s = ran.end_s - ran.begin_s
    samples = sum(ran.begin_s <= reading.time_s <= ran.end_s for reading in sampler.readings)
    why = why_invalid(sampler, sensor.interval_s, ran.begin_s, ran.end_s)
    energy_mj = None if why else integrate(sampler.readings, ran.begin_s, ran.end_s)
    if energy_mj is not None and energy_mj <= 0:
        why, energy_mj = "the sensor saw no power (is it wired the right way round?)", None
    return Window(duration_s, ran.inferences, energy_mj, samples, samples / duration_s, not why, why)


def _figures(
    sensor: EnergySensor, windows: tuple[Window, ...], idle: Optional[Window], cost: float
) -> EnergyFigures:
    valid = [window for window in windows if window.valid]
    missing = _why_missing(windows, valid)
    idle_mw = idle.energy_mj / idle.duration_s if idle and idle.energy_mj is not None else None
    gross_mj = None if missing else median([(w.energy_mj or 0.0) / w.inferences for w in valid])
    net_mj = None
    if gross_mj is not None and idle_mw is not None:
        net_mj = gross_mj - idle_mw * median([window.duration_s / window.inferences for window in valid])
        if abs(net_mj) < _ROUNDING * gross_mj:
            net_mj = 0.0
    return EnergyFigures(
        method=sensor.method,
        estimated=sensor.estimated,
        gross_mj=gross_mj,
        net_mj=net_mj,
        idle_mw=idle_mw,
        windows=windows,
        rate_hz=median([window.rate_hz for window in windows]) if windows else 0.0,
        sampling_cost=cost,
        missing=missing,
    )


def _why_missing(windows: Sequence[Window], valid: Sequence[Window]) -> str:
    if windows and 2 * len(valid) >= len(windows):
        return ""
    reasons = [window.why for window in windows if window.why]
    commonest = max(reasons, key=reasons.count, default="none were run")
    return f"{len(reasons)} of {len(windows)} windows were invalid: {commonest}"
