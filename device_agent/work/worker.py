"""The process that works with a model: one job as JSON on stdin, lines of JSON on stdout, then it ends.

A line is {"confined": [...]} first, then {"event": {...}}, {"timing": [index, {...}]}, {"result": {...}} or
{"error": {...}}. The process dies with the agent, pins itself to the cores it is told and takes from itself
what a hostile model could use (`confine`). Whatever a runtime prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from device_agent.errors import RequestError
from device_agent.work import confine, onnx_files

_PATHS = ("path", "folder", "manifest", "keys")  # of a job's details; `paths` is a list of such


class Reply:
    """The private end of stdout; file descriptor 1 itself is turned into stderr."""

    def __init__(self) -> None:
        self._stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def line(self, **message: Any) -> None:
        """Write one line."""
        self._stream.write(json.dumps(message) + "\n")
        self._stream.flush()


def main() -> int:
    """Do the job on stdin; 0 when it was answered, with a result or with an error."""
    sys.path[:] = [place for place in sys.path if place not in ("", os.getcwd())]  # noqa: PTH109 - as sys.path has it
    reply = Reply()
    job = json.load(sys.stdin)
    confine.die_with_parent(job["agent_pid"])
    if job["cores"]:
        os.sched_setaffinity(0, job["cores"])
    try:
        reads = _reads(job)
        devices = [Path(device) for device in job["devices"]]
        reads.append(Path(job["sysfs"]))
        reply.line(confined=confine.confine(job["agent_user"], reads, Path(job["place"]), devices))
        reply.line(result=_do(job, reply))
    except RequestError as error:
        reply.line(error=error.as_dict())
    except MemoryError:
        reply.line(error=RequestError("out_of_memory", "the board's memory did not suffice").as_dict())
    return 0


def _reads(job: dict[str, Any]) -> list[Path]:
    """Return the files and folders that the job is about.

    Raises:
        RequestError: `storage`, if this process may not read one of them.
    """
    paths = [Path(path) for path in [*(job[name] for name in _PATHS if name in job), *job.get("paths", ())]]
    try:
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # who needs it says so
                os.close(os.open(path, os.O_RDONLY))
    except OSError as error:
        raise RequestError(
            "storage",
            f"user {os.getuid()} of the worker may not read {path}: {error.strerror}",
            "the state folder and those above it must be open to that user (chmod o+x)",
        ) from error
    return paths


def _do(job: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """Do the one thing that the job asks for."""
    if job["kind"] == "facts":
        from device_agent import facts  # noqa: PLC0415 - each job imports what it needs, under confinement

        sensors = facts.sensors(Path(job["sysfs"]), job["energy_meter"])
        return {"runtimes": facts.runtimes(), "board": facts.board(), "sensors": sensors}
    if job["kind"] == "verify":
        from device_agent.updates import trust  # noqa: PLC0415

        return trust.verify(job)
    return _with_model(job, reply)


def _with_model(job: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """Open the runtime and do what is asked for with it."""
    from device_agent.measure import benchmark, golden, layers, runtimes  # noqa: PLC0415 - these import numpy
    from device_agent.measure.pace import Pace  # noqa: PLC0415
    from device_agent.measure.protocol import MeasuringProtocol  # noqa: PLC0415
    from device_agent.sensors import energy  # noqa: PLC0415
    from device_agent.sensors.conditions import ConditionSensors  # noqa: PLC0415
    from device_agent.sensors.memory import MemorySensor  # noqa: PLC0415

    def tell(event: dict[str, Any]) -> None:
        reply.line(event=event)

    runtime = runtimes.open_runtime(job["runtime"])
    opened_ns = time.monotonic_ns()
    facts: dict[str, Any] = {"runtime_version": runtime.version}
    protocol = MeasuringProtocol(**job["protocol"])
    # read before an empty worker ends, too: what it takes must not count as the model's
    sensors = ConditionSensors(job["cores"][0], Path(job["sysfs"]))
    wanted = protocol.energy and job["kind"] == "measure"
    power = energy.find(Path(job["sysfs"]), meter=job["energy_meter"]) if wanted else ()
    sensors.read()
    pace = Pace(job["pace_ns"])
    if job["kind"] == "empty":
        peak = MemorySensor().process_peak_bytes()
        pace.look()
        return {**facts, "process_peak_bytes": peak, "pace_ns": pace.shortest_ns}
    if job["kind"] == "check":
        folder = Path(job["folder"])
        _look_at(job, folder / job["golden"]["model"], [path.name for path in folder.iterdir()])
        checked = golden.check(runtime, folder, job["threads"], job["golden"], pace)
        return {**checked, "pace_ns": pace.shortest_ns}
    if job["kind"] == "layers":
        sound = _sound(job, reply)
        paths = [Path(job["paths"][index]) for index in sound]
        tell_all = partial(_tell_layers, reply, sound, len(job["paths"]))
        for position, timing in layers.measure_layers(
            runtime, paths, job["threads"], protocol, pace, tell_all
        ):
            reply.line(timing=[sound[position], timing])
        return {**facts, "pace_ns": pace.shortest_ns}
    _look_at(job, Path(job["path"]))
    measured = benchmark.measure(
        runtime,
        Path(job["path"]),
        threads=job["threads"],
        protocol=protocol,
        sensors=sensors,
        power=power,
        pace=pace,
        tell=tell,
    )
    measured["cold_start"]["spawn_ms"] = (opened_ns - job["started_ns"]) / 1e6
    return {**facts, **measured, "pace_ns": pace.shortest_ns}


def _look_at(job: dict[str, Any], model: Path, beside: Collection[str] = ()) -> None:
    """Refuse a model that would open files that it has no business with."""
    if job["runtime"] == "onnxruntime":
        onnx_files.check(model, beside)


def _sound(job: dict[str, Any], reply: Reply) -> list[int]:
    """Return which of a table's models the runtime may see; the others are told as failed."""
    sound = []
    for index, path in enumerate(job["paths"]):
        try:
            _look_at(job, Path(path))
            sound.append(index)
        except RequestError as error:  # noqa: PERF203 - each model has its own
            reply.line(timing=[index, {"p50_ms": 0.0, "runs": 0, "error": error.message}])
    return sound


def _tell_layers(reply: Reply, sound: list[int], count: int, event: dict[str, Any]) -> None:
    """Tell an event about the sound models as one about all `count`."""
    if "opening" in event:
        event = {"opening": sound[event["opening"]]}
    elif "done" in event:
        event = {**event, "done": event["done"] + count - len(sound), "of": count}
    reply.line(event=event)


if __name__ == "__main__":
    sys.exit(main())
