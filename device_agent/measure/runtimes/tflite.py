"""TFLite models through LiteRT, or through tflite-runtime where LiteRT is not installed.

The default resolver is used, so XNNPACK takes what it can.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from importlib import util
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from device_agent import facts
from device_agent.measure.runtimes import InputSpec, NoProfilerError


class TfliteSession:
    """One TFLite model in an interpreter."""

    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        self._inputs = interpreter.get_input_details()
        self._outputs = interpreter.get_output_details()
        self.inputs = tuple(
            InputSpec(d["name"], tuple(int(size) for size in d["shape"]), np.dtype(d["dtype"]).name)
            for d in self._inputs
        )

    def prepare(self, arrays: Sequence[Any]) -> Callable[[], object]:
        """Put the arrays in the input tensors, which keep them, and return the call that infers."""
        for detail, array in zip(self._inputs, arrays):
            self._interpreter.set_tensor(detail["index"], array)
        call: Callable[[], object] = self._interpreter.invoke
        return call

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Run one inference and return its outputs."""
        self.prepare(arrays)()
        return [self._interpreter.get_tensor(detail["index"]) for detail in self._outputs]


class Runtime:
    """The TFLite interpreter of whichever package is installed."""

    def __init__(self) -> None:
        package = next((m for m, _ in facts.PROVIDERS["tflite"] if util.find_spec(m) is not None), None)
        if package is None:
            raise ImportError("no package with a TFLite interpreter is installed")
        self._interpreter = importlib.import_module(f"{package}.interpreter").Interpreter
        found = facts.runtime("tflite")
        self.version: str = found["version"] if found else "unknown"

    def load(self, path: Path, threads: int) -> TfliteSession:
        """Load a model file and allocate its tensors."""
        interpreter = self._interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
        return TfliteSession(interpreter)

    def profile(self, *_: object, **__: object) -> NoReturn:
        """Say that there is none: Python sees no times, and XNNPACK makes one operator of all that it takes."""
        raise NoProfilerError("this runtime tells no times of single operators to Python")
