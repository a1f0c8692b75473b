"""Weights stored as float16 and computed with as float32: half the file at the same latency.

    store_half(path, runtime)      for a converted file, or a layer's
    validate(…, min_sqnr_db=HALF_MIN_SQNR_DB)

An operator behind each stored tensor makes float32 of it: Cast in ONNX, DEQUANTIZE in TFLite. Both runtimes do that
once, while they load the file (onnxruntime by folding constants, LiteRT's XNNPACK as it packs weights), so that what is
left to compute is what there was.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.convert.tflite import packed, schema, unpacked
from pipeline.errors import InputError
from pipeline.files import write_atomically

# Rounding to 11 bits leaves at least 66 dB after one layer; whole networks of 10 to 56 layers kept 66 to 74 dB
# (docs/converting.md). At 50 dB the error is six times the worst of these; one layer that is off by 1 % leaves 40 dB.
HALF_MIN_SQNR_DB = 50.0

SMALLEST = 256  # numbers; the operator and the names for one tensor take 70 to 90 bytes
_ROUNDING = 2.0**-11  # what rounding costs a number at most, relative to it
_SUFFIX = ":half"  # no name in Python has a colon, so no tensor has this one yet
_DEQUANTIZE_HALF = 3  # the version of the operator that takes float16


def store_half(path: Path, runtime: str) -> None:
    """Rewrite a model file with its weights as float16, all or nothing; inputs and outputs stay float32.

    Small tensors, most biases among them, stay as they are, and so does a tensor that would lose more than rounding
    loses: with numbers above 65504 (infinity, as float16), or so many below 6e-5 (where float16 runs out of digits)
    that the error is more than 2⁻¹¹ of the tensor's norm. The same file gives the same bytes; a second time changes
    nothing.

    Args:
        path: a file that `Converter.convert` or `build_layer_model` wrote.
        runtime: "onnxruntime" or "tflite".

    Raises:
        InputError: the runtime is unknown, or the package for its file format is not installed.
        StorageError: the disk is full or not writable; the file is as it was.
    """
    rewrites: dict[str, Callable[[bytes], bytes]] = {"onnxruntime": _onnx, "tflite": _tflite}
    if runtime not in rewrites:
        raise InputError(f"unknown runtime {runtime!r}", hint=f"known runtimes: {', '.join(rewrites)}")
    data = rewrites[runtime](path.read_bytes())
    write_atomically(path, partial(_write, data))


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float16] | None:
    """Return `values` as float16, or `None` where that gains nothing or loses more than rounding does."""
    if values.size < SMALLEST:
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        half = values.astype(np.float16)
        error = np.linalg.norm(half.astype(np.float64) - values)
    # Not "error > …, so None": what is not finite compares as false.
    return half if error <= _ROUNDING * np.linalg.norm(values.astype(np.float64)) else None


def _onnx(data: bytes) -> bytes:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load_model_from_string(data)
    casts = []
    for tensor in model.graph.initializer:
        half = _rounded(numpy_helper.to_array(tensor)) if tensor.data_type == TensorProto.FLOAT else None
        if half is not None:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(half, name + _SUFFIX))
            casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString(deterministic=True))


def _tflite(data: bytes) -> bytes:
    model = unpacked(data)
    halves = _round_buffers(model)
    if not halves:
        return data
    code = schema().OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema().BuiltinOperator.DEQUANTIZE
    code.version = _DEQUANTIZE_HALF
    model.operatorCodes.append(code)
    for graph in model.subgraphs:
        widened = [index for index, tensor in enumerate(graph.tensors) if tensor.buffer in halves]
        operators = [_widen(graph, index, len(model.operatorCodes) - 1) for index in widened]
        graph.operators = [*operators, *graph.operators]
    return packed(model)


def _round_buffers(model: Any) -> set[int]:
    """Turn all constants that may be float16 into it; return which buffers those are. One may serve several tensors."""
    users = defaultdict(list)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            users[tensor.buffer].append(tensor)
    plain = schema().TensorType.FLOAT32
    halves = set()
    for index, tensors in users.items():
        buffer = model.buffers[index]
        if buffer.data is None or any(each.type != plain for each in tensors):
            continue
        half = _rounded(np.frombuffer(buffer.data, np.float32))
        if half is not None:
            buffer.data = np.frombuffer(half.tobytes(), np.uint8)
            halves.add(index)
    return halves


def _widen(graph: Any, index: int, code: int) -> Any:
    """Let the tensor at `index` be computed from a stored one, and return the operator that does."""
    stored = copy(graph.tensors[index])
    stored.type = schema().TensorType.FLOAT16
    stored.name += _SUFFIX.encode()
    graph.tensors[index].buffer = 0  # "no constant"
    graph.tensors.append(stored)
    operator = schema().OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = code, [len(graph.tensors) - 1], [index]
    return operator


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)
