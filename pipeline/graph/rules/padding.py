"""Padding: over space it changes nothing; over channels it fixes them, the number being the model's."""

from __future__ import annotations

from torch import fx

from pipeline.graph.flow import Flow, Value, describe, shape_of
from pipeline.graph.rules.registry import Arguments, rule


@rule("aten.pad.default", "aten.constant_pad_nd.default")
def pad(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """`pad` holds (before, after) for the last dimension, then for the one before it, and so on."""
    first = next(iter(args))
    value, shape, amounts = flow.value(args[first]), shape_of(node), list(args["pad"])
    dims = list(value.dims)
    for back in range(1, len(amounts) // 2 + 1):
        ids = dims[-back]
        if ids is not None and any(amounts[2 * back - 2 : 2 * back]):
            flow.units.freeze(ids, f"{describe(node)} pads it with a fixed number of channels")
            dims[-back] = None
    return Value(shape, tuple(dims))
