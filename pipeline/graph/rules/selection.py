"""Slices, splits and picks: the chosen indices keep their units."""

from __future__ import annotations

import numpy as np
from torch import fx

from pipeline.graph.flow import Flow, Value, describe, fixed_value, shape_of
from pipeline.graph.rules.registry import Arguments, rule
from pipeline.graph.units import FIXED, Ids


@rule("aten.slice.Tensor")
def cut(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """`start`, `end` and `step` as in Python."""
    value = flow.value(args[next(iter(args))])
    dim = int(args["dim"]) % len(value.shape)
    return _with_dim(value, shape_of(node), dim, slice(args["start"], args["end"], args["step"]))


@rule("aten.narrow.default")
def narrow(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """`length` indices from `start` on."""
    value = flow.value(args[next(iter(args))])
    dim = int(args["dim"]) % len(value.shape)
    start = int(args["start"]) % value.shape[dim]
    return _with_dim(value, shape_of(node), dim, slice(start, start + int(args["length"])))


@rule("aten.select.int")
def select(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """One index of a dimension, which vanishes; its units are frozen: the index is the model's."""
    value = flow.value(args[next(iter(args))])
    dim = int(args["dim"]) % len(value.shape)
    ids = value.dims[dim]
    if ids is not None:
        flow.units.freeze(ids, f"{describe(node)} picks one of it by number")
    return Value(shape_of(node), value.dims[:dim] + value.dims[dim + 1 :])


@rule("aten.chunk.default", "aten.split.Tensor", "aten.split_with_sizes.default", "aten.split.sizes")
def split(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """Consecutive parts of a dimension."""
    value = flow.value(args[next(iter(args))])
    dim = int(args["dim"]) % len(value.shape)
    parts, start = [], 0
    for shape in _shapes(node):
        parts.append(_with_dim(value, shape, dim, slice(start, start + shape[dim])))
        start += shape[dim]
    return tuple(parts)


@rule("<built-in function getitem>", buffer="view")
def item(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """One result of an operator that gives several."""
    del node
    source, index = args["args"]
    values = flow.values[source]
    return values[index] if isinstance(values, tuple) else values


def _shapes(node: fx.Node) -> list[tuple[int, ...]]:
    values = fixed_value(node.meta["val"])
    return [value.shape for value in (values if isinstance(values, tuple) else (values,))]


def _with_dim(value: Value, shape: tuple[int, ...], dim: int, chosen: slice) -> Value:
    ids: Ids | None = value.dims[dim]
    if ids is not None:
        ids = ids[chosen]
        if np.all(ids == FIXED):
            ids = None
    return Value(shape, (*value.dims[:dim], ids, *value.dims[dim + 1 :]))
