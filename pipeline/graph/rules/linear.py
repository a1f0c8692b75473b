"""Linear layers and products with a matrix of weights: the contracted dimension takes the input's units."""

from __future__ import annotations

import math

from torch import fx

from pipeline.graph.flow import Flow, LayerTrace, Value, describe, layer_name, shape_of
from pipeline.graph.rules.registry import Arguments, refuse, rule


@rule("aten.linear.default")
def linear(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """Weight (out, in), input (..., in)."""
    swapped = flow.parameter(args["weight"]) is not None and flow.is_transposed(args["weight"])
    return _product(flow, node, args["input"], args["weight"], args["bias"], out_dim=1 if swapped else 0)


@rule("aten.mm.default", "aten.matmul.default")
def product(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """Input (..., in) times a parameter (in, out), or times a transposed parameter (out, in)."""
    first, *rest = args
    weight = args[rest[0]]
    return _product(flow, node, args[first], weight, None, out_dim=0 if flow.is_transposed(weight) else 1)


@rule("aten.addmm.default")
def product_and_bias(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """Bias + input times a parameter."""
    weight = args["mat2"]
    out_dim = 0 if flow.is_transposed(weight) else 1
    return _product(flow, node, args["mat1"], weight, args["self"], out_dim=out_dim)


def _product(
    flow: Flow, node: fx.Node, source: fx.Node, weight: fx.Node, bias: fx.Node | None, *, out_dim: int
) -> Value | tuple[Value, ...]:
    name = flow.parameter(weight)
    if name is None or len(shape_of(weight)) != 2 or flow.parameter(source) is not None:
        return refuse(flow, node, f"{describe(node)} multiplies by a computed matrix")
    if bias is not None and (flow.parameter(bias) is None or len(shape_of(bias)) != 1):
        return refuse(flow, node, f"{describe(node)} adds a computed bias")
    value, shape = flow.value(source), shape_of(node)
    out = flow.units.fresh(shape[-1])
    flow.claim(node, weight, out_dim, out, "out")
    flow.claim(node, weight, 1 - out_dim, value.dims[-1], "in")
    flow.claim(node, bias, 0, out, "along")
    rows = (math.prod(shape[1:-1]), 1)
    flow.layers.append(
        LayerTrace(
            name=layer_name(name),
            kind="linear",
            node=node,
            in_ids=value.dims[-1],
            out_ids=out,
            in_width=value.shape[-1],
            out_width=shape[-1],
            input_hw=rows,
            output_hw=rows,
            bias=bias is not None,
        )
    )
    return Value(shape, (*value.dims[:-1], out))
