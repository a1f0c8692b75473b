"""Measures one model on a simulated board as the measuring protocol says: attempts until one has no flag."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Any

from behaviour import Model, PowerSensor
from power import measure_energy
from processes import LOAD_BYTES_PER_S, RUNTIME_BYTES, SPAWN_S, Worker
from turns import Tell

from device_agent.measure.protocol import MeasuringProtocol
from device_agent.statistics import spread_ms, steadiness, summary_ms

_WARM_UP_S, _LOOK_EVERY_S = 0.5, 1.0
_UNSTEADY_ABOVE, _DISTURBED_ABOVE, _COOL_WITHIN_C = 0.05, 0.03, 2.0
_OPERATOR_CALLS = 160


@dataclass(frozen=True)
class Task:
    """One measurement: of what, how, by which process, and who is told of its progress."""

    model: Model
    protocol: MeasuringProtocol
    worker: Worker
    tell: Tell


def measure(task: Task, sensor: PowerSensor | None) -> dict[str, Any]:
    """Return the fields of a `Measurement` that a worker can know."""
    _wait_until_cool(task)
    task.worker.load(task.model)
    attempts = _attempts(task)
    best = min(attempts, key=lambda attempt: (len(attempt["flags"]), attempt["steadiness"]))
    energy, method, why = measure_energy(task.model, task.protocol, task.worker, sensor, task.tell)
    missing = {**best["missing"], **({"energy_mj": why} if why else {})}
    if not task.protocol.operators:
        missing["operators"] = "not asked for"
    return {
        **best,
        **_memory(task),
        "attempts": len(attempts),
        "cold_start": _cold_start(task),
        "energy": energy,
        "energy_mj": energy["gross_mj"] if energy else None,
        "energy_method": method,
        "operators": _operators(task) if task.protocol.operators else None,
        "missing": missing,
        "confinement": [],
    }


def time_layer(model: Model, protocol: MeasuringProtocol, worker: Worker) -> dict[str, Any]:
    """Return the time of one small model of a table."""
    worker.load(model)
    least_s = protocol.layer_min_runs * worker.machine.behaviour.latency_ns(model) / 1e9
    samples = worker.infer(model, min(least_s, protocol.layer_max_duration_s))
    return {"p50_ms": summary_ms(samples)[0]["p50"], "runs": len(samples), "error": None}


def _wait_until_cool(task: Task) -> None:
    if limit_c := task.protocol.max_temperature_c:
        task.tell({"phase": "cooldown", "done": 0, "of": task.protocol.max_attempts})
        task.worker.cool(limit_c, 0.0, task.protocol.timeout_s / 4)


def _attempts(task: Task) -> list[dict[str, Any]]:
    """Try again after a cool-down while there is a flag and may be another attempt."""
    protocol = task.protocol
    attempts = [_attempt(task)]
    cool_c = min(attempts[0]["before"]["temperature_c"] + _COOL_WITHIN_C, protocol.max_temperature_c or inf)
    while attempts[-1]["flags"] and len(attempts) < protocol.max_attempts:
        task.tell({"phase": "cooldown", "done": len(attempts), "of": protocol.max_attempts})
        task.worker.cool(cool_c, protocol.cooldown_s, 10 * protocol.cooldown_s)
        attempts.append(_attempt(task))
    return attempts


def _attempt(task: Task) -> dict[str, Any]:
    machine, protocol = task.worker.machine, task.protocol
    hot = 0 < protocol.max_temperature_c < machine.heat.temperature_c()
    task.tell({"phase": "warmup", "done": 0, "of": 1})
    task.worker.work(min(_WARM_UP_S, protocol.warmup_max_s))
    samples: list[float] = []
    looks = [machine.conditions()]
    while seconds := _seconds_to_go(task, len(samples), sum(samples) / 1e9):
        task.tell({"phase": "measure", "done": len(samples), "of": max(protocol.min_runs, len(samples))})
        samples += task.worker.infer(task.model, seconds)
        looks.append(machine.conditions())
    return _report(samples, hot, looks[0], looks[-1], machine.during(looks))


def _seconds_to_go(task: Task, runs: int, spent_s: float) -> float:
    """Return how long to infer before the next look; 0 when it is enough."""
    protocol = task.protocol
    if runs and spent_s >= protocol.max_duration_s:
        return 0.0
    least_runs_s = (protocol.min_runs - runs) * task.worker.machine.behaviour.latency_ns(task.model) / 1e9
    wanted_s = max(protocol.min_duration_s - spent_s, least_runs_s)
    return max(0.0, min(_LOOK_EVERY_S, wanted_s, max(1e-9, protocol.max_duration_s - spent_s)))


def _report(
    samples: list[float], hot: bool, before: dict[str, Any], after: dict[str, Any], during: dict[str, Any]
) -> dict[str, Any]:
    latency_ms, missing = summary_ms(samples)
    found = {
        "unsteady": steadiness(samples) > _UNSTEADY_ABOVE,
        "throttled": during["throttled"],
        "disturbed": during["others_share"] > _DISTURBED_ABOVE,
        "hot": hot,
    }
    return {
        "runs": len(samples),
        "duration_s": sum(samples) / 1e9,
        "latency_ms": latency_ms,
        "spread_ms": spread_ms(samples),
        "steadiness": steadiness(samples),
        "flags": [name for name, present in found.items() if present],
        "before": before,
        "after": after,
        "during": during,
        "missing": missing,
    }


def _memory(task: Task) -> dict[str, int]:
    own = task.worker.machine.behaviour.memory_bytes(task.model.content)
    return {"process_peak_bytes": RUNTIME_BYTES + own, "model_peak_bytes": own}


def _cold_start(task: Task) -> dict[str, float]:
    first_ms = 2 * task.worker.machine.behaviour.latency_ns(task.model) / 1e6
    load_ms = 1 + 1e3 * len(task.model.content) / LOAD_BYTES_PER_S
    return {"spawn_ms": 1e3 * SPAWN_S, "load_ms": load_ms, "first_inference_ms": first_ms}


def _operators(task: Task) -> list[dict[str, Any]]:
    """Return the model as one operator: what is inside it is not simulated."""
    p50_ms = task.worker.machine.behaviour.latency_ns(task.model) / 1e6
    return [{"name": "model", "kind": "Model", "calls": _OPERATOR_CALLS, "p50_ms": p50_ms, "share": 1.0}]
