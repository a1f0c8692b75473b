"""Energy per inference on a simulated board: windows of a steady power, or the reason why there are none."""

from __future__ import annotations

from statistics import median
from typing import Any

from behaviour import Model, PowerSensor
from processes import Worker
from turns import Tell

from device_agent.measure.protocol import MeasuringProtocol

Found = tuple[dict[str, Any] | None, str, str]


def measure_energy(
    model: Model, protocol: MeasuringProtocol, worker: Worker, sensor: PowerSensor | None, tell: Tell
) -> Found:
    """Return the energy or `None`, the method, and why there is none."""
    if not protocol.energy:
        return None, "unavailable: not asked for", "not asked for: energy = true in [measuring]"
    if sensor is None:
        return None, "unavailable: no power sensor found", "attach a power sensor"
    if sensor.estimated and not protocol.energy_estimates:
        return None, f"unavailable: only an estimate is possible ({sensor.method})", "allow estimates"
    return _windows(model, protocol, worker, sensor, tell), sensor.method, ""


def _windows(
    model: Model, protocol: MeasuringProtocol, worker: Worker, sensor: PowerSensor, tell: Tell
) -> dict[str, Any]:
    idle_mw = None
    if protocol.idle_window_s:
        tell({"phase": "idle", "done": 0, "of": 1})
        worker.rest(protocol.idle_window_s)
        idle_mw = sensor.idle_mw
    windows, looks = [], [worker.machine.conditions()]
    for done in range(protocol.energy_windows):
        tell({"phase": "energy", "done": done, "of": protocol.energy_windows})
        windows.append(_window(worker.infer(model, protocol.energy_window_s), sensor))
        looks.append(worker.machine.conditions())
    gross_mj = median(window["energy_mj"] / window["inferences"] for window in windows)
    idle_mj = None if idle_mw is None else idle_mw * gross_mj / sensor.busy_mw
    return {
        "method": sensor.method,
        "estimated": sensor.estimated,
        "gross_mj": gross_mj,
        "net_mj": None if idle_mj is None else gross_mj - idle_mj,
        "idle_mw": idle_mw,
        "windows": windows,
        "rate_hz": sensor.rate_hz,
        "sampling_cost": 0.001,
        "missing": "",
        "during": worker.machine.during(looks),
    }


def _window(samples_ns: list[float], sensor: PowerSensor) -> dict[str, Any]:
    duration_s = sum(samples_ns) / 1e9
    return {
        "duration_s": duration_s,
        "inferences": len(samples_ns),
        "energy_mj": sensor.busy_mw * duration_s,
        "samples": int(sensor.rate_hz * duration_s),
        "rate_hz": sensor.rate_hz,
        "valid": True,
        "why": "",
    }
