"""Operators that need every entry of a dimension in its place: softmax, cumulative sums, sorting."""

from __future__ import annotations

from torch import fx

from pipeline.graph.flow import Flow, Value, shape_of
from pipeline.graph.rules.dimensions import chosen_dims, first_value, fixed_results, freeze_dims, with_dim
from pipeline.graph.rules.elementwise import overloads
from pipeline.graph.rules.registry import Arguments, rule

_SOFTMAX = overloads(
    ["softmax", "_softmax", "_safe_softmax", "log_softmax", "_log_softmax", "special_softmax"]
)
_RUNNING = overloads(["cumsum", "cumprod", "logcumsumexp"])


@rule(*_SOFTMAX, *_RUNNING, "aten.argsort.default", "aten.argsort.stable", "aten.msort.default")
def whole(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Along `dim` all entries must stay; the other dimensions are independent of it."""
    return _without_dim(flow, node, args, shape_of(node))


@rule(
    "aten.sort.default", "aten.sort.stable", "aten.topk.default", "aten.cummax.default", "aten.cummin.default"
)
def ordered(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """Values and places, the first few of them or all."""
    return tuple(_without_dim(flow, node, args, one.shape) for one in fixed_results(node))


def _without_dim(flow: Flow, node: fx.Node, args: Arguments, shape: tuple[int, ...]) -> Value:
    value = first_value(flow, args)
    if not value.shape:
        return Value.fixed(shape)
    (dim,) = chosen_dims(int(args.get("dim", 0)), len(value.shape))
    freeze_dims(flow, node, [value.dims[dim]], "needs all of it")
    return with_dim(value, shape, dim, None)
