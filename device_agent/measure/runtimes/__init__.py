"""Model runtimes behind one small protocol; a runtime's module is imported only in a worker.

A further runtime is one more module here with a class `Runtime`, named in `facts.PROVIDERS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from device_agent.errors import RequestError
from device_agent.facts import PROVIDERS

_MODULES = {
    "onnxruntime": "device_agent.measure.runtimes.onnxruntime",
    "tflite": "device_agent.measure.runtimes.tflite",
}
_OUT_OF_MEMORY = ("bad_alloc", "bad allocation", "allocate memory", "out of memory")


@dataclass(frozen=True)
class InputSpec:
    """One input of a model: its name, its shape (sizes left open are 1) and its numpy dtype's name."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Session(Protocol):
    """One loaded model with one number of threads."""

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """Return the model's inputs, in its order."""
        ...

    def prepare(self, arrays: Sequence[Any]) -> Callable[[], object]:
        """Return a function that runs one inference on these arrays and does nothing else."""
        ...

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Run one inference and return its outputs, in the model's order."""
        ...


@dataclass(frozen=True)
class OperatorCall:
    """One call of one operator of a model, as the runtime's own profiler saw it."""

    name: str
    kind: str
    duration_us: float


class Runtime(Protocol):
    """One installed model runtime."""

    version: str

    def load(self, path: Path, threads: int) -> Session:
        """Load a model file; raises the runtime's own error when it refuses."""
        ...

    def profile(
        self, path: Path, threads: int, folder: Path, use: Callable[[Session], object]
    ) -> list[OperatorCall]:
        """Load a model file with the profiler on, and return all calls of its operators while `use` ran it.

        Args:
            path: the model's file.
            threads: threads to infer with.
            folder: where the profiler may leave a file.
            use: is given the loaded model.

        Raises:
            NoProfilerError: this runtime has none.
        """
        ...


class NoProfilerError(Exception):
    """A runtime cannot tell how long single operators take; its text says why."""


def open_runtime(name: str) -> Runtime:
    """Import a runtime.

    Raises:
        RequestError: `runtime_missing`, also for one that is installed but does not import.
    """
    if name not in _MODULES:
        raise RequestError(
            "runtime_missing", f"this agent knows no runtime {name!r}", f"known: {', '.join(_MODULES)}"
        )
    try:
        runtime: Runtime = importlib.import_module(_MODULES[name]).Runtime()
    except ImportError as error:
        packages = " or ".join(distribution for _, distribution in PROVIDERS[name])
        raise RequestError(
            "runtime_missing",
            f"the runtime {name} cannot be used on this board: {first_line(error)}",
            f"install {packages} for the Python that runs the agent",
        ) from error
    return runtime


def load(runtime: Runtime, path: Path, threads: int) -> Session:
    """Load a model.

    Raises:
        RequestError: `model_refused` with the runtime's first line, or `out_of_memory`.
    """
    try:
        return runtime.load(path, threads)
    except Exception as error:
        raise refused(error) from error


def refused(error: Exception) -> RequestError:
    """Turn a runtime's own error, of whatever type, into ours."""
    line = first_line(error)
    if isinstance(error, MemoryError) or any(words in line.lower() for words in _OUT_OF_MEMORY):
        return RequestError(
            "out_of_memory", f"the board's memory did not suffice: {line}", "use a smaller model"
        )
    return RequestError(
        "model_refused", f"the runtime refused the model: {line}", "convert it for this runtime's version"
    )


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, not longer than 300 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
