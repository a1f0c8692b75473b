"""The process that works with a model: one job as JSON on stdin, lines of JSON on stdout, then it ends.

A line is {"event": {...}}, {"timing": [index, {...}]}, {"result": {...}} or {"error": {...}}. The process
pins itself to the cores it is told, limits itself, dies with the agent, and is the first that the kernel
takes when memory runs out. Whatever a runtime prints goes to stderr.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

from device_agent.errors import RequestError

_PR_SET_PDEATHSIG = 1


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
    reply = Reply()
    job = json.load(sys.stdin)
    _confine(job)
    try:
        reply.line(result=_do(job, reply))
    except RequestError as error:
        reply.line(error=error.as_dict())
    except MemoryError:
        reply.line(error=RequestError("out_of_memory", "the board's memory did not suffice").as_dict())
    return 0


def _confine(job: dict[str, Any]) -> None:
    """Die with the agent, keep to the cores, leave no core dump, take no more memory than there is."""
    _die_with_parent(job["agent_pid"])
    os.sched_setaffinity(0, job["cores"])
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if job["memory_limit_bytes"]:
        resource.setrlimit(resource.RLIMIT_DATA, (job["memory_limit_bytes"],) * 2)


def _die_with_parent(agent_pid: int) -> None:
    try:
        import ctypes  # noqa: PLC0415 - a Python built without it still measures

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        return
    if os.getppid() != agent_pid:
        sys.exit(1)


def _do(job: dict[str, Any], reply: Reply) -> dict[str, Any]:
    """Open the runtime and do the one thing that the job asks for."""
    from device_agent import benchmark, golden, layers, runtimes  # noqa: PLC0415 - these import numpy
    from device_agent.protocol import MeasuringProtocol  # noqa: PLC0415
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
    power = energy.find(Path(job["sysfs"]))
    sensors.read()
    if job["kind"] == "empty":
        return {**facts, "process_peak_bytes": MemorySensor().process_peak_bytes()}
    if job["kind"] == "check":
        return golden.check(runtime, Path(job["folder"]), job["threads"], job["golden"])
    if job["kind"] == "layers":
        paths = [Path(path) for path in job["paths"]]
        for index, timing in layers.measure_layers(runtime, paths, job["threads"], protocol, tell):
            reply.line(timing=[index, timing])
        return facts
    measured = benchmark.measure(
        runtime,
        Path(job["path"]),
        threads=job["threads"],
        protocol=protocol,
        sensors=sensors,
        power=power,
        tell=tell,
    )
    measured["cold_start"]["spawn_ms"] = (opened_ns - job["started_ns"]) / 1e6
    return {**facts, **measured}


if __name__ == "__main__":
    sys.exit(main())
