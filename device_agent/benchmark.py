"""The measuring protocol for one whole model; runs in a worker.

Load → first inference → warm-up until two successive windows agree → attempts. An attempt counts single
inferences until both the least number and the least duration are reached. One that was unsteady or throttled
is repeated after a pause; the best attempt (without flags, else the steadiest) is the one that is reported.
Memory is read after the warm-up, before samples pile up, so that only the model is in it.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import Any, Optional

from device_agent import runtimes
from device_agent.inputs import prebuilt
from device_agent.protocol import MeasuringProtocol
from device_agent.sensors import energy
from device_agent.sensors.conditions import ConditionSensors, why_missing
from device_agent.sensors.memory import MemorySensor
from device_agent.statistics import median, steadiness, summary_ms

UNSTEADY_ABOVE = 0.05
_SETTLED_WITHIN = 0.02
_WARMUP_WINDOW_S = 0.05
_WARMUP_WINDOW_RUNS = 3
_LOOK_EVERY_S = 1.0  # how often throttling is looked at and progress is told, between two inferences

Call = Callable[[], object]
Tell = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Attempt:
    """One row of timed inferences; `samples_ns` in the order they were run."""

    samples_ns: Sequence[int]
    duration_s: float
    steadiness: float
    flags: tuple[str, ...]
    energy_mj: Optional[float]
    before: dict[str, Any]
    after: dict[str, Any]


def measure(
    runtime: runtimes.Runtime,
    path: Path,
    *,
    threads: int,
    protocol: MeasuringProtocol,
    sensors: ConditionSensors,
    power: Optional[energy.PowerSensor],
    tell: Tell,
) -> dict[str, Any]:
    """Measure one model and return the fields of a `Measurement` that the worker can know.

    Raises:
        RequestError: `model_refused` or `out_of_memory`.
    """
    gc.disable()
    session, load_ms = timed(lambda: runtimes.load(runtime, path, threads))
    try:
        call = session.prepare(prebuilt(session.inputs))
        first_ms = timed(call)[1]
        warm_up(call, protocol.warmup_max_s, tell)
        peak = MemorySensor().process_peak_bytes()
        attempts = _attempts(call, protocol, sensors, power, tell)
    except Exception as error:
        raise runtimes.refused(error) from error
    best = best_of(attempts)
    result = _report(best, power)
    result["attempts"] = len(attempts)
    result["process_peak_bytes"] = peak
    result["cold_start"] = {"load_ms": load_ms, "first_inference_ms": first_ms}
    return result


def best_of(attempts: Sequence[Attempt]) -> Attempt:
    """Return the attempt with the fewest flags, of several such the steadiest."""
    return min(attempts, key=lambda attempt: (len(attempt.flags), attempt.steadiness))


def timed(act: Callable[[], Any]) -> tuple[Any, float]:
    """Do something once; return its result and the milliseconds it took."""
    begin = perf_counter_ns()
    result = act()
    return result, (perf_counter_ns() - begin) / 1e6


def timed_runs(call: Call, samples_ns: array[int], runs: int, until_s: float) -> None:
    """Append the nanoseconds of up to `runs` single inferences, ending early when `until_s` has come."""
    clock, keep = perf_counter_ns, samples_ns.append
    until_ns = int(until_s * 1e9)
    for _ in range(runs):
        begin = clock()
        call()
        end = clock()
        keep(end - begin)
        if end >= until_ns:
            return


def warm_up(call: Call, longest_s: float, tell: Tell) -> None:
    """Run until the medians of two successive windows agree within 2 %, or `longest_s` is over."""
    tell({"phase": "warmup", "done": 0, "of": 1})
    until_s = perf_counter_ns() / 1e9 + longest_s
    earlier = None
    while perf_counter_ns() / 1e9 < until_s:
        window = array("q")
        window_end_s = perf_counter_ns() / 1e9 + _WARMUP_WINDOW_S
        while len(window) < _WARMUP_WINDOW_RUNS or perf_counter_ns() / 1e9 < window_end_s:
            timed_runs(call, window, 1, until_s)
            if perf_counter_ns() / 1e9 >= until_s:
                return
        now = median(window)
        if earlier is not None and abs(now - earlier) <= _SETTLED_WITHIN * earlier:
            return
        earlier = now


def _attempts(
    call: Call,
    protocol: MeasuringProtocol,
    sensors: ConditionSensors,
    power: Optional[energy.PowerSensor],
    tell: Tell,
) -> list[Attempt]:
    attempts: list[Attempt] = []
    while True:
        attempts.append(_attempt(call, protocol, sensors, power, tell))
        if not attempts[-1].flags or len(attempts) == protocol.max_attempts:
            return attempts
        tell({"phase": "cooldown", "done": len(attempts), "of": protocol.max_attempts})
        sleep(protocol.cooldown_s)
        warm_up(call, protocol.warmup_max_s, tell)


def _attempt(
    call: Call,
    protocol: MeasuringProtocol,
    sensors: ConditionSensors,
    power: Optional[energy.PowerSensor],
    tell: Tell,
) -> Attempt:
    before = sensors.read()
    throttled = bool(before["throttled"])
    samples = array("q")
    begin_s = perf_counter_ns() / 1e9
    with energy.EnergyMeter(power) as meter:
        while not _enough(len(samples), perf_counter_ns() / 1e9 - begin_s, protocol):
            tell({"phase": "measure", "done": len(samples), "of": max(protocol.min_runs, len(samples))})
            timed_runs(call, samples, *_next_stretch(len(samples), begin_s, protocol))
            throttled = throttled or sensors.throttled()
    duration_s = perf_counter_ns() / 1e9 - begin_s
    after = sensors.read()
    spread = steadiness(samples)
    named = (("unsteady", spread > UNSTEADY_ABOVE), ("throttled", throttled or bool(after["throttled"])))
    flags = tuple(name for name, present in named if present)
    return Attempt(samples, duration_s, spread, flags, meter.per_run_mj(len(samples)), before, after)


def _enough(runs: int, elapsed_s: float, protocol: MeasuringProtocol) -> bool:
    if runs and elapsed_s >= protocol.max_duration_s:
        return True
    return runs >= protocol.min_runs and elapsed_s >= protocol.min_duration_s


def _next_stretch(runs: int, begin_s: float, protocol: MeasuringProtocol) -> tuple[int, float]:
    """Return how many inferences to run without a look around, and when to stop at the latest.

    Until the least duration is over, time ends a stretch; after it, the least number of runs does.
    """
    now_s = perf_counter_ns() / 1e9
    least_end_s = begin_s + protocol.min_duration_s
    longest_end_s = min(now_s + _LOOK_EVERY_S, begin_s + protocol.max_duration_s)
    if now_s < least_end_s:
        return 10**9, min(least_end_s, longest_end_s)
    return max(1, protocol.min_runs - runs), longest_end_s


def _report(best: Attempt, power: Optional[energy.PowerSensor]) -> dict[str, Any]:
    latency_ms, missing = summary_ms(best.samples_ns)
    missing.update(why_missing(best.after))
    if best.energy_mj is None:
        missing["energy_mj"] = energy.UNAVAILABLE if power is None else "the power sensor gave no reading"
    return {
        "runs": len(best.samples_ns),
        "duration_s": best.duration_s,
        "latency_ms": latency_ms,
        "steadiness": best.steadiness,
        "flags": list(best.flags),
        "energy_mj": best.energy_mj,
        "energy_method": energy.UNAVAILABLE if power is None else power.method,
        "before": best.before,
        "after": best.after,
        "missing": missing,
    }
