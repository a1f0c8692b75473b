"""Operators that work on each element alone: all operands' units are coupled, with broadcasting."""

from __future__ import annotations

from torch import fx

from pipeline.graph.flow import Flow, Value, describe, shape_of
from pipeline.graph.rules.registry import Arguments, rule

_ACTIVATIONS = (
    "relu",
    "relu6",
    "hardtanh",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "tanh",
    "silu",
    "gelu",
    "leaky_relu",
    "elu",
    "celu",
    "selu",
    "softplus",
    "mish",
    "clamp",
    "clamp_min",
    "clamp_max",
    "threshold",
    "abs",
    "neg",
    "exp",
    "log",
    "sqrt",
    "rsqrt",
    "reciprocal",
    "square",
    "erf",
)
_ARITHMETIC = ("add", "sub", "mul", "div", "maximum", "minimum")
_UNARY = [f"aten.{name}{place}.default" for name in _ACTIVATIONS for place in ("", "_")]
_BINARY = [
    f"aten.{name}{place}.{kind}"
    for name in _ARITHMETIC
    for place in ("", "_")
    for kind in ("Tensor", "Scalar", "default")
]


@rule(*_UNARY, *_BINARY, "aten.pow.Tensor_Scalar", "aten.rsub.Scalar", buffer="in_place")
def elementwise(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Align the operands' shapes from the right; a dimension of size one is broadcast and takes no part."""
    del args
    shape = shape_of(node)
    operands = [flow.operand(node, source) for source in node.all_input_nodes]
    reason = f"{describe(node)} combines it with a tensor of fixed width"
    dims = []
    for back in range(len(shape), 0, -1):
        reach = [value for value in operands if len(value.shape) >= back]
        dims.append(flow.merge([v.dims[-back] for v in reach if v.shape[-back] == shape[-back]], reason))
    return Value(shape, tuple(dims))


@rule(
    "aten.dropout.default",
    "aten.dropout_.default",
    "aten.feature_dropout.default",
    "aten.feature_dropout_.default",
    "aten.detach.default",
    "aten.detach_.default",
    "aten.alias.default",
    "aten.contiguous.default",
    "aten.to.dtype",
    "aten.to.device",
    "aten.to.dtype_layout",
    "aten._to_copy.default",
    buffer="view",
)
@rule("aten.clone.default")
def identity(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """In eval mode the same values."""
    del args
    return flow.operand(node, node.all_input_nodes[0])
