"""One layer as a small ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.search.layer_weights import random_weights
from pipeline.search.shapes import LayerShape

OPSET, IR_VERSION = 17, 8  # old enough for every runtime that a board may have


def build(shape: LayerShape, path: Path) -> None:
    """Write `shape` as an ONNX model: NCHW float32, batch 1, input "input", output "output"."""
    graph = _empty() if shape.kind == "empty" else _layer(shape)
    model = helper.make_model(
        graph,
        producer_name="edge-pipeline",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    path.write_bytes(model.SerializeToString(deterministic=True))


def _empty() -> onnx.GraphProto:
    node = helper.make_node("Identity", ["input"], ["output"])
    return helper.make_graph([node], "empty", [_tensor("input", [1, 1])], [_tensor("output", [1, 1])])


def _layer(shape: LayerShape) -> onnx.GraphProto:
    weight, bias = random_weights(shape)
    constants = {"weight": weight}
    if bias is not None:
        constants["bias"] = bias
    computed = "output" if shape.activation is None else "computed"
    nodes = [_compute_node(shape, ["input", *constants], computed)]
    if shape.activation == "relu":
        nodes.append(helper.make_node("Relu", [computed], ["output"]))
    elif shape.activation == "relu6":
        constants |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)}
        nodes.append(helper.make_node("Clip", [computed, "low", "high"], ["output"]))
    inputs, outputs = (
        _dims(shape, shape.in_width, shape.input_hw),
        _dims(shape, shape.out_width, shape.output_hw),
    )
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    return helper.make_graph(
        nodes, "layer", [_tensor("input", inputs)], [_tensor("output", outputs)], initializer=stored
    )


def _compute_node(shape: LayerShape, inputs: list[str], output: str) -> onnx.NodeProto:
    if shape.kind == "linear":
        return helper.make_node("Gemm", inputs, [output], transB=1)
    return helper.make_node(
        "Conv",
        inputs,
        [output],
        kernel_shape=shape.kernel,
        strides=shape.stride,
        pads=[*shape.padding, *shape.padding],
        dilations=shape.dilation,
        group=shape.groups,
    )


def _dims(shape: LayerShape, width: int, size: tuple[int, int]) -> list[int]:
    return [size[0], width] if shape.kind == "linear" else [1, width, *size]


def _tensor(name: str, dims: list[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
