"""ONNX models through onnxruntime, on the processor."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnxruntime

from device_agent.measure.runtimes import InputSpec, OperatorCall

_DTYPES = {"float": "float32", "double": "float64"}
_EVENT_END = "_kernel_time"
_CONTAINERS = ("If", "Loop", "Scan")  # their time is that of the operators within, which are events, too


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
        return OnnxSession(_open(path, _options(threads)))

    def profile(
        self, path: Path, threads: int, folder: Path, use: Callable[[OnnxSession], object]
    ) -> list[OperatorCall]:
        """Load a model file with the profiler on, and return all calls of its operators while `use` ran it.

        Names are those after fusion; the profiler counts in whole microseconds.

        Raises:
            ValueError: the profiler left a file that is cut off, or none.
        """
        options = _options(threads)
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "operators")
        session = _open(path, options)
        try:
            use(OnnxSession(session))
        finally:
            file = Path(session.end_profiling())
        try:
            return list(_calls(file))
        finally:
            file.unlink(missing_ok=True)


def _options(threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    # idle threads that spin pay off only where there is more than the calling thread
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if threads > 1 else "0")
    return options


def _open(path: Path, options: Any) -> Any:
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _calls(file: Path) -> Iterator[OperatorCall]:
    """Read a profile event by event, one a line between "[" and "]": all at once may not fit into memory."""
    complete = False
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            complete = line.strip() == "]"
            event = json.loads(line.rstrip(" ,\n")) if line.startswith("{") else {}
            if event.get("cat") != "Node" or not event["name"].endswith(_EVENT_END):
                continue
            kind = event["args"]["op_name"]
            name = (
                event["name"][: -len(_EVENT_END)] or f"{kind} {event['args'].get('node_index', '')}".strip()
            )
            if kind not in _CONTAINERS:
                yield OperatorCall(name, kind, float(event["dur"]))
    if not complete:
        raise ValueError("the runtime's profile is cut off")


def _spec(node: Any) -> InputSpec:
    """Read one input; its type is written like `tensor(float)`, a size left open is a name or `None`."""
    kind = node.type[len("tensor(") : -1]
    shape = tuple(size if isinstance(size, int) and size > 0 else 1 for size in node.shape)
    return InputSpec(node.name, shape, _DTYPES.get(kind, kind))
