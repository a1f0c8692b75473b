"""Operators that work on each element alone: all operands' units are coupled, with broadcasting."""

from __future__ import annotations

import torch
from torch import fx

from pipeline.graph.flow import Flow, Value, describe, shape_of
from pipeline.graph.rules.registry import Arguments, rule

_UNARY = """abs acos acosh asin asinh atan atanh bernoulli bitwise_not ceil celu clamp clamp_max clamp_min clip cos
cosh deg2rad digamma elu erf erfc erfinv exp exp2 expm1 floor frac gelu hardshrink hardsigmoid hardswish hardtanh
isfinite isinf isnan leaky_relu lgamma log log10 log1p log2 log_sigmoid logical_not logit mish nan_to_num neg negative
positive reciprocal relu relu6 round rrelu rsqrt selu sgn sigmoid sign silu sin sinc sinh softplus softshrink
special_expit sqrt square tan tanh threshold trunc zero fill"""
_BINARY = """add sub mul multiply subtract div divide true_divide floor_divide maximum minimum fmax fmin atan2 fmod
remainder pow float_power rsub eq ne lt le gt ge greater less greater_equal less_equal not_equal logical_and logical_or
logical_xor bitwise_and bitwise_or bitwise_xor where masked_fill lerp addcmul addcdiv copy copysign hypot xlogy
logaddexp heaviside"""
_SAME = """dropout feature_dropout alpha_dropout feature_alpha_dropout native_dropout alias detach contiguous to
_to_copy type_as lift_fresh_copy lift_fresh lift"""


def overloads(names: str | list[str]) -> list[str]:
    """Return all ATen targets of these names (listed, or with spaces between), in-place variants included."""
    listed = names.split() if isinstance(names, str) else names
    packets = [getattr(torch.ops.aten, name + place, None) for name in listed for place in ("", "_")]
    return [
        f"{packet}.{overload}" for packet in packets if packet is not None for overload in packet.overloads()
    ]


@rule(*overloads(_UNARY), *overloads(_BINARY), buffer="in_place")
def elementwise(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Align the operands' shapes from the right; a dimension of size one is broadcast and takes no part."""
    del args
    shape = shape_of(node)
    operands = [flow.value(source) for source in node.all_input_nodes]
    reason = f"{describe(node)} combines it with a tensor of fixed width"
    dims = []
    for back in range(len(shape), 0, -1):
        reach = [value for value in operands if len(value.shape) >= back]
        dims.append(flow.merge([v.dims[-back] for v in reach if v.shape[-back] == shape[-back]], reason))
    return Value(shape, tuple(dims))


@rule("aten.prelu.default", buffer="in_place")
def prelu(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Input (N, C, ...), slopes (C,) or (1,)."""
    value = flow.value(args["self"])
    if shape_of(args["weight"]) != (1,):
        flow.claim(node, args["weight"], 0, value.dims[1] if len(value.dims) > 1 else None, "along")
    return value


@rule(*overloads(_SAME), buffer="view")
@rule("aten.clone.default")
def identity(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """In eval mode the same values."""
    del args
    return flow.value(node.all_input_nodes[0])
