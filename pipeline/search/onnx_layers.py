"""One layer, or a few behind each other, as a small ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pipeline.search.layer_weights import random_weights
from pipeline.search.shapes import LayerShape

OPSET, IR_VERSION = 17, 8  # old enough for every runtime that a board may have


def build(layers: Sequence[LayerShape], path: Path) -> None:
    """Write layers, each behind the one before, as an ONNX model: NCHW float32, batch 1, "input", "output"."""
    graph = _empty() if layers[0].kind == "empty" else _chain(layers)
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


def _chain(layers: Sequence[LayerShape]) -> onnx.GraphProto:
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []
    source = "input"
    for number, shape in enumerate(layers, 1):
        target = "output" if number == len(layers) else f"between{number}"
        tag = "" if len(layers) == 1 else str(number)
        _add_layer(nodes, stored, shape, source, target, tag)
        source = target
    first, last = layers[0], layers[-1]
    inputs, outputs = (
        _dims(first, first.in_width, first.input_hw),
        _dims(last, last.out_width, last.output_hw),
    )
    return helper.make_graph(
        nodes, "layer", [_tensor("input", inputs)], [_tensor("output", outputs)], initializer=stored
    )


def _add_layer(
    nodes: list[onnx.NodeProto],
    stored: list[onnx.TensorProto],
    shape: LayerShape,
    source: str,
    target: str,
    tag: str,
) -> None:
    weight, bias = random_weights(shape)
    constants = {f"weight{tag}": weight}
    if bias is not None:
        constants[f"bias{tag}"] = bias
    computed = target if shape.activation is None else f"computed{tag}"
    nodes.append(_compute_node(shape, [source, *constants], computed))
    if shape.activation == "relu":
        nodes.append(helper.make_node("Relu", [computed], [target]))
    elif shape.activation == "relu6":
        bounds = {f"low{tag}": np.array(0, np.float32), f"high{tag}": np.array(6, np.float32)}
        constants |= bounds
        nodes.append(helper.make_node("Clip", [computed, *bounds], [target]))
    stored += [numpy_helper.from_array(value, name) for name, value in constants.items()]


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
