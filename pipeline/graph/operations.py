"""The multiply-accumulate operations of everything in a captured graph that multiplies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import fx

from pipeline.graph.capture import Capture
from pipeline.graph.flow import describe_place, layer_name, operator_name, shape_of
from pipeline.graph.rules.registry import arguments

_PRODUCTS = {"mm", "bmm", "matmul", "mv", "addmm", "baddbmm"}
_RECURRENT = {"lstm", "gru", "rnn_tanh", "rnn_relu"}


@dataclass(frozen=True)
class Operation:
    """One layer, or one product of activations, as it runs on a single sample."""

    name: str
    kind: str
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    macs: int


def operations(capture: Capture) -> tuple[Operation, ...]:
    """Return all convolutions, linear and recurrent layers and matrix products in order of execution.

    A layer goes by the name of its weight's module, a product by that of the module whose code multiplies. Shapes
    are those of the capture, the batch included; operations are for one sample of it.
    """
    batch = _batch(capture)
    found = []
    for node in capture.program.graph.nodes:
        name = operator_name(node)
        macs = _macs(node, name) if node.op == "call_function" else 0
        if macs:
            source = node.all_input_nodes[0]
            label = _weight_name(node, capture) or describe_place(node) or node.name
            found.append(Operation(label, name, shape_of(source), _output(node), macs // batch))
    return tuple(found)


def _macs(node: fx.Node, name: str) -> int:
    args = arguments(node)
    if name.startswith(
        "conv"
    ):  # every entry of the result meets one filter; transposed, every one of the input
        places = args["input"] if name.startswith("conv_transpose") else node
        return math.prod(shape_of(places)) * math.prod(shape_of(args["weight"])[1:])
    if name == "linear":
        return math.prod(shape_of(node)) * shape_of(args["input"])[-1]
    if name in _PRODUCTS:
        first = args["batch1" if "batch1" in args else "mat1" if "mat1" in args else "self"]
        return math.prod(shape_of(node)) * shape_of(first)[-1]
    if name in _RECURRENT:
        steps = math.prod(shape_of(args["input"])[:-1])
        return steps * sum(math.prod(shape_of(one)) for one in args["params"] if len(shape_of(one)) > 1)
    return _attention(args) if name == "scaled_dot_product_attention" else 0


def _attention(args: dict[str, Any]) -> int:
    query, key = shape_of(args["query"]), shape_of(args["key"])
    return math.prod(query[:-1]) * key[-2] * (query[-1] + shape_of(args["value"])[-1])


def _output(node: fx.Node) -> tuple[int, ...]:
    value = node.meta["val"]
    return tuple(value[0].shape) if isinstance(value, list | tuple) else shape_of(node)


def _weight_name(node: fx.Node, capture: Capture) -> str | None:
    """Return the layer of a node's weight; of a weight that is computed, none."""
    for source in node.all_input_nodes:
        name = capture.parameters.get(source.name)
        if name is not None and len(shape_of(source)) > 1:
            owner = name.rpartition(".")[0]
            return owner if owner and operator_name(node) in _RECURRENT else layer_name(name)
    return None


def _batch(capture: Capture) -> int:
    own = capture.parameters
    inputs = [n for n in capture.program.graph.nodes if n.op == "placeholder" and n.name not in own]
    shapes = [shape_of(one) for one in inputs if one.meta["val"].ndim > 1]
    return max(1, shapes[0][0]) if shapes else 1
