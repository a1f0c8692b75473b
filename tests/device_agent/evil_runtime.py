"""A package `onnxruntime` that does what a test wants in the worker, for a model file itself can hardly fork."""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

from device_agent.measure.protocol import MeasuringProtocol
from device_agent.sensors.memory import MemorySensor
from device_agent.work import offspring
from device_agent.work.workers import Cancellation, Job, Workers

_PREAMBLE = """
import os, signal, sys, time
__version__ = "0"

def answers():
    frame = sys._getframe()
    while type(frame.f_locals.get("reply")).__name__ != "Reply":
        frame = frame.f_back
    return frame.f_locals["reply"]
"""


def put_on_path(monkeypatch, folder: Path, code: str) -> None:
    """Have workers find a package `onnxruntime` that runs `code` when it is imported."""
    package = folder / "evil" / "onnxruntime"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text(_PREAMBLE + textwrap.dedent(code), encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def run(state: Path, kind: str = "empty", timeout_s: float = 20.0, listen=lambda _: None, **details):
    """Have one job done by real worker processes."""
    job = Job(kind, "onnxruntime", 1, MeasuringProtocol(timeout_s=timeout_s), details)
    return Workers(state).run(job, Cancellation(), listen)


def strays(before) -> list[offspring.Process]:
    """Return the processes below this one that were not there before; orphans come to it, too."""
    found = {process.pid: process for process in offspring.processes()}

    def is_below(process):
        while process is not None and process.pid != os.getpid():
            process = found.get(process.parent)
        return process is not None

    known = {(process.pid, process.start) for process in before}
    return [each for each in found.values() if (each.pid, each.start) not in known and is_below(each)]


class Peak:
    """The most memory that this process had while the block ran, over what it had before, in bytes."""

    def __enter__(self):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        self._before = MemorySensor().process_bytes()
        self.grown = 0
        return self

    def __exit__(self, *_):
        self.grown = MemorySensor().process_peak_bytes() - self._before
