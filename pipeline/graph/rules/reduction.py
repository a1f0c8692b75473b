"""Means and sums: the reduced dimensions vanish, and units along them are frozen."""

from __future__ import annotations

from torch import fx

from pipeline.graph.flow import Flow, Value, describe, shape_of
from pipeline.graph.rules.registry import Arguments, rule
from pipeline.graph.units import Ids


@rule("aten.mean.dim", "aten.sum.dim_IntList", "aten.amax.default", "aten.amin.default")
def reduce(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """`dim` empty or missing reduces all."""
    first = next(iter(args))
    value = flow.value(args[first])
    rank = len(value.shape)
    given = args["dim"]
    chosen = [given] if isinstance(given, int) else list(given or range(rank))
    gone = {dim % rank for dim in chosen}
    dims: list[Ids | None] = []
    for dim, ids in enumerate(value.dims):
        if dim in gone:
            if ids is not None:
                flow.units.freeze(ids, f"{describe(node)} reduces over it")
            if args["keepdim"]:
                dims.append(None)
        else:
            dims.append(ids)
    return Value(shape_of(node), tuple(dims))
