"""Linear layers and matrix products: the contracted dimensions of both sides are the same units."""

from __future__ import annotations

import math

from torch import fx

from pipeline.graph.flow import Flow, LayerTrace, Value, describe, layer_name, shape_of
from pipeline.graph.rules.elementwise import overloads
from pipeline.graph.rules.registry import Arguments, rule
from pipeline.graph.units import Ids


@rule("aten.linear.default")
def linear(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Weight (out, in), input (..., in)."""
    value = flow.value(args["input"])
    flow.claim(node, args["weight"], 1, value.dims[-1], "in")
    out = flow.produce(node, args["weight"], 0)
    flow.claim(node, args["bias"], 0, out, "along")
    _note_layer(flow, node, args["input"], args["weight"], args["bias"], out)
    return Value(shape_of(node), (*value.dims[:-1], out))


@rule(
    "aten.mm.default",
    "aten.matmul.default",
    "aten.bmm.default",
    "aten.mv.default",
    "aten.dot.default",
    "aten.vdot.default",
)
def product(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """(..., n, k) times (..., k, m); either side may be a weight, be one vector, or be broadcast."""
    first, second = list(args.values())[:2]
    return _multiply(flow, node, first, second, None)


@rule(*overloads("addmm baddbmm addmv"))
def product_and_sum(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """The same plus a tensor that is broadcast to the result."""
    added, first, second = list(args.values())[:3]
    result = _multiply(flow, node, first, second, added)
    wide = flow.value(added)
    reason = f"{describe(node)} adds a tensor of fixed width"
    dims = list(result.dims)
    for back in range(1, len(wide.shape) + 1):
        if wide.shape[-back] == result.shape[-back]:
            if flow.parameter(added) is not None:
                flow.claim(node, added, len(wide.shape) - back, dims[-back], "along")
            else:
                dims[-back] = flow.merge([dims[-back], wide.dims[-back]], reason)
    return Value(result.shape, tuple(dims))


def _multiply(flow: Flow, node: fx.Node, first: fx.Node, second: fx.Node, bias: fx.Node | None) -> Value:
    left, right, shape = flow.value(first), flow.value(second), shape_of(node)
    into = len(right.shape) - 2 if len(right.shape) > 1 else 0  # the contracted dimension of the second
    rows = left.dims[-2:-1] if len(left.shape) > 1 else ()
    columns = right.dims[-1:] if len(right.shape) > 1 else ()
    if flow.is_weight(second):
        flow.claim(node, second, into, left.dims[-1], "in")
        columns = tuple(flow.produce(node, second, into + 1) for _ in columns)
        if len(right.shape) == 2:
            _note_layer(flow, node, first, second, bias, columns[0])
    elif flow.is_weight(first):
        flow.claim(node, first, len(left.shape) - 1, right.dims[into], "in")
        rows = tuple(flow.produce(node, first, len(left.shape) - 2) for _ in rows)
    else:
        flow.merge([left.dims[-1], right.dims[into]], f"{describe(node)} multiplies it by fixed channels")
    batch = _batch(flow, node, left, right, len(shape) - len(rows) - len(columns))
    return Value(shape, (*batch, *rows, *columns))


def _batch(flow: Flow, node: fx.Node, left: Value, right: Value, rank: int) -> list[Ids | None]:
    """Couple the leading dimensions, broadcast from the right; products along them are independent."""
    dims: list[Ids | None] = []
    for back in range(rank, 0, -1):
        sides = [v for v in (left, right) if len(v.shape) >= back + 2]
        size = max(v.shape[-back - 2] for v in sides)
        reason = f"{describe(node)} multiplies it by fixed channels"
        ids = flow.merge([v.dims[-back - 2] for v in sides if v.shape[-back - 2] == size], reason)
        if ids is not None and len(sides) > 1:
            flow.heads.append(ids)
        dims.append(ids)
    return dims


def _note_layer(
    flow: Flow, node: fx.Node, source: fx.Node, weight: fx.Node, bias: fx.Node | None, out: Ids | None
) -> None:
    """Record the layer where its weight is a parameter, or the transpose of one."""
    turned = str(weight.target) in {"aten.t.default", "aten.transpose.int", "aten.permute.default"}
    name = flow.parameter(weight.args[0] if turned else weight)
    shape = shape_of(node)
    if name is None or flow.is_weight(source):
        return
    rows = (math.prod(shape[1:-1]), 1)
    flow.layers.append(
        LayerTrace(
            name=layer_name(name),
            kind="linear",
            node=node,
            in_ids=flow.value(source).dims[-1],
            out_ids=out,
            in_width=shape_of(source)[-1],
            out_width=shape[-1],
            input_hw=rows,
            output_hw=rows,
            bias=bias is not None,
        )
    )
