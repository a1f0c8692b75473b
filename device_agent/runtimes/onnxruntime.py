"""ONNX models through onnxruntime, on the processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime

from device_agent.runtimes import InputSpec

_DTYPES = {"float": "float32", "double": "float64"}


class OnnxSession:
    """One ONNX model in an inference session."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.inputs = tuple(_spec(node) for node in session.get_inputs())

    def prepare(self, arrays: Sequence[Any]) -> Callable[[], object]:
        """Return a function that runs one inference on these arrays."""
        return partial(self._session.run, None, self._feed(arrays))

    def run(self, arrays: Sequence[Any]) -> list[Any]:
        """Run one inference and return its outputs."""
        return list(self._session.run(None, self._feed(arrays)))

    def _feed(self, arrays: Sequence[Any]) -> dict[str, Any]:
        return {spec.name: array for spec, array in zip(self.inputs, arrays)}


class Runtime:
    """onnxruntime with one pool of `threads` threads, all graph optimisations on."""

    def __init__(self) -> None:
        self.version: str = onnxruntime.__version__

    def load(self, path: Path, threads: int) -> OnnxSession:
        """Load a model file."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        # idle threads that spin pay off only where there is more than the calling thread
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
        return OnnxSession(
            onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        )


def _spec(node: Any) -> InputSpec:
    """Read one input; its type is written like `tensor(float)`, a size left open is a name or `None`."""
    kind = node.type[len("tensor(") : -1]
    shape = tuple(size if isinstance(size, int) and size > 0 else 1 for size in node.shape)
    return InputSpec(node.name, shape, _DTYPES.get(kind, kind))
