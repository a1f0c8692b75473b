"""The measuring protocol for one whole model; runs in a worker.

Wait until cool → load → first inference → warm-up → attempts → energy → operators. An attempt counts single
inferences until both the least number and the least duration are reached, at the processor's full pace (`pace.py`):
what it did more slowly is left out. One that is flagged is repeated after a cool-down; the best attempt (the fewest
flags, then the steadiest) is the one that is reported, with its flags.
Memory is read after the warm-up, before samples pile up, so that only the model is in it. Energy and operators
come last, so that neither the reading of a sensor nor a profiler colours the latency.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import sleep
from typing import Any, Optional

from device_agent.errors import RequestError
from device_agent.measure import operators, runtimes
from device_agent.measure.inputs import prebuilt
from device_agent.measure.pace import STRETCH_S, Pace, Stretches
from device_agent.measure.protocol import MeasuringProtocol
from device_agent.measure.timing import Call, Tell, now_s, timed, warm_up
from device_agent.sensors.conditions import ConditionSensors, why_missing
from device_agent.sensors.energy import EnergySensor, windows
from device_agent.sensors.memory import MemorySensor
from device_agent.statistics import spread_ms, steadiness, summary_ms

UNSTEADY_ABOVE = 0.05
_LOOK_EVERY_S = 1.0  # how often the sensors are read and progress is told, between two inferences
_COOL_WITHIN_C = 2.0  # of what it was before the first attempt
_LONGEST_COOLDOWNS = 10
_WAIT_SHARE = 0.25  # of the worker's time, until the board is cool enough to begin
_TIME_SHARE = 0.9  # of the worker's time; the rest is for what cannot be foreseen


@dataclass(frozen=True)
class Attempt:
    """Timed inferences; `samples_ns`, those that count, in the order they were run."""

    samples_ns: Sequence[int]
    duration_s: float
    steadiness: float
    flags: tuple[str, ...]
    before: dict[str, Any]
    after: dict[str, Any]
    during: dict[str, Any]


def measure(
    runtime: runtimes.Runtime,
    path: Path,
    *,
    threads: int,
    protocol: MeasuringProtocol,
    sensors: ConditionSensors,
    power: Sequence[EnergySensor],
    pace: Pace,
    tell: Tell,
) -> dict[str, Any]:
    """Measure one model and return the fields of a `Measurement` that the worker can know.

    Args:
        runtime: an open runtime.
        path: the model's file.
        threads: threads to infer with; the process is pinned to as many cores.
        protocol: what is wanted.
        sensors: of the first of those cores.
        power: the energy sensors, best first.
        pace: of the core that this runs on.
        tell: is given progress, {"phase": …, "done": n, "of": m}.

    Raises:
        RequestError: `model_refused` or `out_of_memory`.
    """
    gc.disable()
    result = _measure_loaded(runtime, path, threads, _Board(protocol, sensors, pace, tell), power)
    result["operators"] = None
    if protocol.operators:
        tell({"phase": "operators", "done": 0, "of": 1})
        result["operators"], why = operators.measure(runtime, path, threads)
    else:
        why = "not asked for"
    if why:
        result["missing"]["operators"] = why
    return result


def best_of(attempts: Sequence[Attempt]) -> Attempt:
    """Return the attempt with the fewest flags, of several such the steadiest."""
    return min(attempts, key=lambda attempt: (len(attempt.flags), attempt.steadiness))


def cool_down(sensors: ConditionSensors, to_c: Optional[float], least_s: float, longest_s: float) -> None:
    """Wait for `least_s`, and on until the temperature has come down to `to_c` or `longest_s` is over."""
    begin_s = now_s()
    while True:
        waited_s, temperature_c = now_s() - begin_s, sensors.temperature_c()
        cool = to_c is None or temperature_c is None or temperature_c <= to_c
        end_s = least_s if cool else max(least_s, longest_s)
        if waited_s >= end_s:
            return
        sleep(min(_LOOK_EVERY_S / 2, end_s - waited_s))


def _measure_loaded(
    runtime: runtimes.Runtime, path: Path, threads: int, board: _Board, power: Sequence[EnergySensor]
) -> dict[str, Any]:
    """Do all that one session serves for; it is gone from memory afterwards."""
    board.wait_until_cool()
    session, load_ms = timed(lambda: runtimes.load(runtime, path, threads))
    try:
        call = session.prepare(prebuilt(session.inputs))
        first_ms = timed(call)[1]
        warm_up(call, board.protocol.warmup_max_s, board.tell)
        peak = MemorySensor().process_peak_bytes()
        attempts = board.attempts(call)
        found, method, why = _energy(call, board, power)
    except RequestError:
        raise
    except Exception as error:
        raise runtimes.refused(error) from error
    result = _report(best_of(attempts))
    result["attempts"] = len(attempts)
    result["process_peak_bytes"] = peak
    result["cold_start"] = {"load_ms": load_ms, "first_inference_ms": first_ms}
    result.update(energy=found, energy_mj=found["gross_mj"] if found else None, energy_method=method)
    if why:
        result["missing"]["energy_mj"] = why
    return result


class _Board:
    """The board while one model is measured on it: what is asked for, its sensors, its cores, the time left."""

    def __init__(
        self, protocol: MeasuringProtocol, sensors: ConditionSensors, pace: Pace, tell: Tell
    ) -> None:
        self.protocol = protocol
        self.sensors = sensors
        self.pace = pace
        self.tell = tell
        self.cores = sorted(os.sched_getaffinity(0))
        self._began_s = now_s()
        self._hot = False

    def wait_until_cool(self) -> None:
        """Wait until the board is as cool as the protocol wants it, at most a quarter of the worker's time."""
        if limit_c := self.protocol.max_temperature_c:
            self.tell({"phase": "cooldown", "done": 0, "of": self.protocol.max_attempts})
            cool_down(self.sensors, limit_c, 0.0, _WAIT_SHARE * self.protocol.timeout_s)
        self._look_whether_hot()

    def attempts(self, call: Call) -> list[Attempt]:
        """Run attempts until one is without a flag, or there have been enough, or time is short."""
        attempts = [self._attempt(call)]
        while (
            attempts[-1].flags and len(attempts) < self.protocol.max_attempts and self._time_for(attempts[-1])
        ):
            self.tell({"phase": "cooldown", "done": len(attempts), "of": self.protocol.max_attempts})
            self._cool_down(attempts[0].before["temperature_c"])
            warm_up(call, self.protocol.warmup_max_s, self.tell)
            attempts.append(self._attempt(call))
        return attempts

    def _cool_down(self, first_c: Optional[float]) -> None:
        wanted = [first_c + _COOL_WITHIN_C] if first_c is not None else []
        wanted += [self.protocol.max_temperature_c] if self.protocol.max_temperature_c else []
        least_s = self.protocol.cooldown_s
        cool_down(self.sensors, min(wanted, default=None), least_s, _LONGEST_COOLDOWNS * least_s)
        self._look_whether_hot()

    def _look_whether_hot(self) -> None:
        temperature_c, limit_c = self.sensors.temperature_c(), self.protocol.max_temperature_c
        self._hot = bool(limit_c) and temperature_c is not None and temperature_c > limit_c

    def _time_for(self, another: Attempt) -> bool:
        """Say whether another attempt fits into the worker's time with all that comes after it."""
        wanted = self.protocol
        energy_s = (
            wanted.energy_windows * wanted.energy_window_s + wanted.idle_window_s if wanted.energy else 0.0
        )
        next_s = _LONGEST_COOLDOWNS * wanted.cooldown_s + wanted.warmup_max_s + another.duration_s
        return now_s() - self._began_s + next_s + energy_s < _TIME_SHARE * wanted.timeout_s

    def _attempt(self, call: Call) -> Attempt:
        before = self.sensors.read()
        watch = self.sensors.watch(self.cores)
        stretches = Stretches(self.pace)
        begin_s = now_s()
        looked_s = -_LOOK_EVERY_S
        while not self._enough(stretches, now_s() - begin_s):
            if now_s() - looked_s >= _LOOK_EVERY_S:
                self._tell_runs(stretches)
                watch.look()
                looked_s = now_s()
            self._stretch(call, stretches, begin_s)
        duration_s = now_s() - begin_s
        samples, slowed = stretches.counted()
        during, disturbed = {**watch.during(), **stretches.during()}, watch.disturbed()
        spread = steadiness(samples)
        named = (
            ("unsteady", spread > UNSTEADY_ABOVE),
            ("slowed", slowed),
            ("throttled", bool(during["throttled"])),
            ("disturbed", disturbed),
            ("hot", self._hot),
        )
        flags = tuple(name for name, present in named if present)
        return Attempt(samples, duration_s, spread, flags, before, self.sensors.read(), during)

    def _tell_runs(self, stretches: Stretches) -> None:
        runs = stretches.at_full_pace()[0]
        self.tell({"phase": "measure", "done": runs, "of": max(self.protocol.min_runs, runs)})

    def _stretch(self, call: Call, stretches: Stretches, begin_s: float) -> None:
        """Run inferences for one stretch; at full pace for long enough, it ends with the least number of runs."""
        runs, seconds = stretches.at_full_pace()
        left_s = self.protocol.min_duration_s - seconds
        most = 10**9 if left_s > 0 else max(1, self.protocol.min_runs - runs)
        longest_s = min(STRETCH_S, left_s) if left_s > 0 else STRETCH_S
        stretches.run(call, most, min(now_s() + longest_s, begin_s + self.protocol.max_duration_s))

    def _enough(self, stretches: Stretches, elapsed_s: float) -> bool:
        if self._reached(*stretches.at_full_pace()):
            return True
        runs, seconds = stretches.in_all()
        hopeless = self._reached(runs, seconds) and stretches.hopeless(self.protocol.min_duration_s)
        return hopeless or (runs > 0 and elapsed_s >= self.protocol.max_duration_s)

    def _reached(self, runs: int, seconds: float) -> bool:
        return runs >= self.protocol.min_runs and seconds >= self.protocol.min_duration_s


def _energy(
    call: Call, board: _Board, power: Sequence[EnergySensor]
) -> tuple[Optional[dict[str, Any]], str, str]:
    """Return the energy figures or `None`, the method, and why there is no energy per inference."""
    wanted = board.protocol
    usable = [sensor for sensor in power if wanted.energy_estimates or not sensor.estimated]
    if not wanted.energy:
        return None, "unavailable: not asked for", "not asked for: energy = true in [measuring]"
    if not power:
        why = "attach a power sensor that the kernel shows in hwmon (such as an INA226), or name an external meter"
        return None, "unavailable: no power sensor found", why
    if not usable:
        why = "attach a power sensor, or allow estimates: energy_estimates = true in [measuring]"
        return None, f"unavailable: only an estimate is possible ({power[0].method})", why
    watch = board.sensors.watch(board.cores)

    def tell(event: dict[str, Any]) -> None:
        watch.look()
        board.tell(event)

    figures = windows.measure(
        call,
        usable[0],
        windows=wanted.energy_windows,
        window_s=wanted.energy_window_s,
        idle_s=wanted.idle_window_s,
        tell=tell,
    )
    return {**asdict(figures), "during": watch.during()}, figures.method, figures.missing


def _report(best: Attempt) -> dict[str, Any]:
    ordered = sorted(best.samples_ns)
    latency_ms, missing = summary_ms(ordered)
    missing.update(why_missing(best.after))
    missing.update(why_missing({"during.others_share": best.during["others_share"]}))
    return {
        "runs": len(ordered),
        "duration_s": best.duration_s,
        "latency_ms": latency_ms,
        "spread_ms": spread_ms(ordered),
        "steadiness": best.steadiness,
        "flags": list(best.flags),
        "before": best.before,
        "after": best.after,
        "during": best.during,
        "missing": missing,
    }
