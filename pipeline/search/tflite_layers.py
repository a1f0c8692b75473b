"""One layer, or a few behind each other, as a small TFLite file, written as a flatbuffer without any converter.

Numbers are those of torch: TFLite's SAME padding puts the odd row at the end, so it stands in for torch's
symmetric padding only where both start at the same row and end with the same size; elsewhere a PAD operator
goes before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.search.layer_weights import random_weights
from pipeline.search.shapes import LayerShape

SCHEMA_VERSION = 3
IDENTIFIER = b"TFL3"


def build(layers: Sequence[LayerShape], path: Path) -> None:
    """Write layers, each behind the one before, as a TFLite model: NHWC float32, batch 1.

    Raises:
        InputError: the package that knows the file format is not installed.
    """
    writer = _Writer()
    first = layers[0]
    if first.kind == "empty":
        writer.add("RELU", [writer.tensor("input", [1, 1])], writer.tensor("output", [1, 1]))
    elif first.kind == "linear":
        _add_linear(writer, first)
    else:
        source = writer.tensor("input", [1, *first.input_hw, first.in_width])
        for number, shape in enumerate(layers, 1):
            last = number == len(layers)
            source = _add_convolution(writer, shape, source, "output" if last else f"between{number}")
    path.write_bytes(writer.packed())


class _Writer:
    """Collects tensors and operators; the first tensor is the input, that of the last operator the output."""

    def __init__(self) -> None:
        self.schema = _schema()
        self.buffers: list[Any] = [self.schema.BufferT()]  # buffer 0 means "no constant"
        self.tensors: list[Any] = []
        self.codes: list[Any] = []
        self.operators: list[Any] = []

    def tensor(self, name: str, dims: list[int], values: NDArray[Any] | None = None) -> int:
        """Add a tensor, constant when `values` are given, and return its index."""
        tensor = self.schema.TensorT()
        tensor.name, tensor.shape = name, dims
        integers = values is not None and values.dtype == np.int32
        tensor.type = self.schema.TensorType.INT32 if integers else self.schema.TensorType.FLOAT32
        tensor.buffer = 0
        if values is not None:
            tensor.buffer = len(self.buffers)
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
            self.buffers.append(buffer)
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def add(self, name: str, inputs: list[int], output: int, kind: str = "", options: Any = None) -> None:
        """Add the operator called `name`; `kind` names the type of its options."""
        code = self.schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(self.schema.BuiltinOperator, name)
        code.version = 1
        operator = self.schema.OperatorT()
        operator.opcodeIndex, operator.inputs, operator.outputs = len(self.codes), inputs, [output]
        if options is not None:
            operator.builtinOptionsType, operator.builtinOptions = (
                getattr(self.schema.BuiltinOptions, kind),
                options,
            )
        self.codes.append(code)
        self.operators.append(operator)

    def packed(self) -> bytes:
        """Return the model's bytes; the same graph gives the same bytes."""
        from flatbuffers import Builder

        graph, model = self.schema.SubGraphT(), self.schema.ModelT()
        graph.name, graph.tensors, graph.operators = "main", self.tensors, self.operators
        graph.inputs, graph.outputs = [0], list(self.operators[-1].outputs)
        model.version, model.description = SCHEMA_VERSION, "edge-pipeline"
        model.operatorCodes, model.subgraphs, model.buffers = self.codes, [graph], self.buffers
        builder = Builder(1024)
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())


def _add_linear(writer: _Writer, shape: LayerShape) -> None:
    weight, bias = random_weights(shape)
    rows = shape.input_hw[0]
    inputs = [
        writer.tensor("input", [rows, shape.in_width]),
        writer.tensor("weight", list(weight.shape), weight),
        _bias(writer, shape, bias),
    ]
    options = writer.schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = _activation(writer.schema, shape)
    output = writer.tensor("output", [rows, shape.out_width])
    writer.add("FULLY_CONNECTED", inputs, output, "FullyConnectedOptions", options)


def _add_convolution(writer: _Writer, shape: LayerShape, source: int, target: str) -> int:
    """Add a convolution and return the tensor that it gives."""
    weight, bias = random_weights(shape)
    depthwise = shape.groups > 1 and shape.groups == shape.in_width
    name = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
    values = np.transpose(weight, (1, 2, 3, 0) if depthwise else (0, 2, 3, 1))
    padding = _padding(shape)
    if padding is None:
        source, padding = _add_pad(writer, shape, source), "VALID"
    options = getattr(writer.schema, f"{kind}T")()
    options.padding = getattr(writer.schema.Padding, padding)
    options.strideH, options.strideW = shape.stride
    options.dilationHFactor, options.dilationWFactor = shape.dilation
    options.fusedActivationFunction = _activation(writer.schema, shape)
    if depthwise:
        options.depthMultiplier = shape.out_width // shape.in_width
    inputs = [source, writer.tensor("weight", list(values.shape), values), _bias(writer, shape, bias)]
    output = writer.tensor(target, [1, *shape.output_hw, shape.out_width])
    writer.add(name, inputs, output, kind, options)
    return output


def _add_pad(writer: _Writer, shape: LayerShape, source: int) -> int:
    amounts = np.array([[0, 0], *([pad, pad] for pad in shape.padding), [0, 0]], np.int32)
    size = [entry + 2 * pad for entry, pad in zip(shape.input_hw, shape.padding, strict=True)]
    padded = writer.tensor("padded", [1, *size, shape.in_width])
    writer.add(
        "PAD",
        [source, writer.tensor("amounts", [4, 2], amounts)],
        padded,
        "PadOptions",
        writer.schema.PadOptionsT(),
    )
    return padded


def _padding(shape: LayerShape) -> str | None:
    """Return "VALID" or "SAME" where it equals the layer's own padding, else `None`."""
    if shape.padding == (0, 0):
        return "VALID"
    columns = zip(shape.input_hw, shape.output_hw, shape.reach, shape.stride, shape.padding, strict=True)
    return "SAME" if all(_is_same(*column) for column in columns) else None


def _is_same(size: int, out: int, reach: int, stride: int, pad: int) -> bool:
    wanted = -(-size // stride)
    total = max((wanted - 1) * stride + reach - size, 0)
    return out == wanted and pad == total // 2


def _bias(writer: _Writer, shape: LayerShape, bias: NDArray[np.float32] | None) -> int:
    return writer.tensor(
        "bias", [shape.out_width], np.zeros(shape.out_width, np.float32) if bias is None else bias
    )


def _activation(schema: ModuleType, shape: LayerShape) -> int:
    kinds = schema.ActivationFunctionType
    return int({None: kinds.NONE, "relu": kinds.RELU, "relu6": kinds.RELU6}[shape.activation])


def _schema() -> ModuleType:
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise InputError(
            "the runtime 'tflite' needs a package that is not installed",
            hint="pip install 'edge-pipeline[tflite]'",
        ) from error
    module: ModuleType = schema_py_generated
    return module
