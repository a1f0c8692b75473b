"""Runs a converted file on this computer, by the same runtimes as on boards, to compare answers."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError, ModelError

Run = Callable[[NDArray[Any]], NDArray[Any]]


def runner(path: Path, runtime: str) -> Run:
    """Return a function from a file's only input to its only output.

    Raises:
        ModelError: the runtime refuses the file.
        InputError: the runtime is unknown or not installed here.
    """
    runners = {"onnxruntime": _onnxruntime, "tflite": _litert}
    if runtime not in runners:
        raise InputError(f"unknown runtime {runtime!r}", hint=f"known runtimes: {', '.join(runners)}")
    return runners[runtime](path)


@contextmanager
def mute() -> Iterator[None]:
    """Keep off the terminal what C++ code writes to the descriptors of stdout and stderr.

    Meanwhile nothing else in this process can write there either.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        for descriptor in saved:
            os.dup2(nowhere, descriptor)
        yield
    finally:
        for descriptor, copy in saved.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        os.close(nowhere)


def _onnxruntime(path: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"ONNX Runtime refuses {path.name}: {error}") from error
    name = session.get_inputs()[0].name
    return lambda sample: np.asarray(session.run(None, {name: sample})[0])


def _litert(path: Path) -> Run:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise InputError(
            "checking TFLite files needs ai-edge-litert, which is not installed",
            hint="pip install edge-pipeline[tflite]",
        ) from error
    with mute():
        try:
            interpreter = Interpreter(str(path), num_threads=1)
            interpreter.allocate_tensors()
        except Exception as error:
            raise ModelError(f"LiteRT refuses {path.name}: {error}") from error
    source = interpreter.get_input_details()[0]["index"]
    result = interpreter.get_output_details()[0]["index"]

    def run(sample: NDArray[Any]) -> NDArray[Any]:
        interpreter.set_tensor(source, sample)
        interpreter.invoke()
        return np.array(interpreter.get_tensor(result))

    return run
