"""Small ONNX files and misbehaving agents for the device tests."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.measurement import MeasuringProtocol

QUICK = MeasuringProtocol(
    min_runs=5,
    min_duration_s=0.01,
    max_duration_s=0.2,
    warmup_max_s=0.05,
    max_attempts=1,
    cooldown_s=0.0,
    layer_min_runs=3,
    layer_max_duration_s=0.05,
    timeout_s=60.0,
)
LONG = MeasuringProtocol(min_runs=10**8, min_duration_s=60.0, max_duration_s=60.0, timeout_s=120.0)


def write_model(path: Path, seed: int = 0, width: int = 4) -> Path:
    """Write y = x·W for x of shape (1, width)."""
    weights = np.random.default_rng(seed).standard_normal((width, width)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w"], ["output"])],
        "product",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, width])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def weights_of(path: Path) -> np.ndarray:
    return numpy_helper.to_array(onnx.load(path).graph.initializer[0])


Script = Callable[[BinaryIO, BinaryIO], None]


class ScriptedTransport:
    """An agent's end played by `script(source, sink)` on a thread, over real pipes that close at its end."""

    name = "device 'scripted'"

    def __init__(self, script: Script) -> None:
        self._script = script
        self._thread: threading.Thread | None = None

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        from_host, to_agent = os.pipe()
        from_agent, to_host = os.pipe()
        self._thread = threading.Thread(
            target=self._play, args=(os.fdopen(from_host, "rb"), os.fdopen(to_host, "wb")), daemon=True
        )
        self._thread.start()
        return os.fdopen(from_agent, "rb"), os.fdopen(to_agent, "wb")

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join(timeout=10)

    def last_words(self) -> str:
        return "it said nothing more"

    def _play(self, source: BinaryIO, sink: BinaryIO) -> None:
        with source, sink:
            self._script(source, sink)
