"""Concatenation and stacking: the joined dimension strings units together, the others are coupled."""

from __future__ import annotations

import numpy as np
from torch import fx

from pipeline.graph.flow import Flow, Value, describe, shape_of
from pipeline.graph.rules.registry import Arguments, rule
from pipeline.graph.units import FIXED, Ids


@rule("aten.cat.default", "aten.concat.default", "aten.concatenate.default")
def concatenate(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """A tensor of fixed size among the inputs stays as a fixed part of the result."""
    shape = shape_of(node)
    joined = int(args["dim"]) % len(shape)
    parts = [flow.value(source) for source in args["tensors"]]
    reason = f"{describe(node)} combines it with a tensor of fixed width"
    dims = [
        _string(parts, dim) if dim == joined else flow.merge([part.dims[dim] for part in parts], reason)
        for dim in range(len(shape))
    ]
    return Value(shape, tuple(dims))


@rule("aten.stack.default")
def stack(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """The new dimension has a fixed size; those of the inputs are coupled."""
    shape = shape_of(node)
    made = int(args["dim"]) % len(shape)
    parts = [flow.value(source) for source in args["tensors"]]
    reason = f"{describe(node)} combines it with a tensor of fixed width"
    dims = [flow.merge([part.dims[dim] for part in parts], reason) for dim in range(len(shape) - 1)]
    return Value(shape, (*dims[:made], None, *dims[made:]))


def _string(parts: list[Value], dim: int) -> Ids | None:
    if all(part.dims[dim] is None for part in parts):
        return None
    pieces = []
    for part in parts:
        ids = part.dims[dim]
        pieces.append(np.full(part.shape[dim], FIXED, dtype=np.int64) if ids is None else ids)
    return np.concatenate(pieces)
