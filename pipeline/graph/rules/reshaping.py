"""View, flatten, permute and their kin: the same elements under other indices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from torch import fx

from pipeline.graph.flow import Flow, Value, describe, shape_of
from pipeline.graph.rules.registry import Arguments, rule
from pipeline.graph.units import FIXED, Ids


@rule(
    "aten.view.default",
    "aten.reshape.default",
    "aten._unsafe_view.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.unsqueeze.default",
    buffer="view",
)
def reshape(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Cut both shapes into blocks of equal size and reshape the ids block by block."""
    value, shape = flow.value(args[next(iter(args))]), shape_of(node)
    dims: list[Ids | None] = []
    for before, after in blocks(value.shape, shape):
        inside = value.dims[before.start : before.stop]
        dims += _reshape_block(flow, node, inside, value.shape[before], shape[after])
    return Value(shape, tuple(dims))


def blocks(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[slice, slice]]:
    """Yield the smallest runs of dimensions of both shapes that hold equally many elements, in order."""
    i = j = 0
    while i < len(before) or j < len(after):
        start, other = i, j
        i, j = min(i + 1, len(before)), min(j + 1, len(after))
        while (left := math.prod(before[start:i])) != (right := math.prod(after[other:j])):
            if left < right or j == len(after):
                i += 1
            else:
                j += 1
            if i > len(before) or j > len(after):  # only with empty tensors
                i, j = len(before), len(after)
                break
        yield slice(start, i), slice(other, j)


def _reshape_block(
    flow: Flow, node: fx.Node, inside: Sequence[Ids | None], before: Sequence[int], after: Sequence[int]
) -> list[Ids | None]:
    carriers = [dim for dim, ids in enumerate(inside) if ids is not None]
    if len(carriers) != 1:
        for dim in carriers:
            flow.units.freeze(np.asarray(inside[dim]), f"{describe(node)} merges two slimmed dimensions")
        return [None] * len(after)
    lead = [1] * len(before)
    lead[carriers[0]] = before[carriers[0]]
    ids = np.broadcast_to(np.asarray(inside[carriers[0]]).reshape(lead), tuple(before)).reshape(tuple(after))
    return _along_one_axis(flow, node, flow.units.roots(ids))


def _along_one_axis(flow: Flow, node: fx.Node, ids: Ids) -> list[Ids | None]:
    """Keep the ids on the last axis along which they vary.

    Where they vary along several (channels split into parts), the same place of every part is coupled, so
    that all parts keep the same number.
    """
    varying = [axis for axis in range(ids.ndim) if (ids != ids.take([0], axis)).any()]
    dims: list[Ids | None] = [None] * ids.ndim
    if not varying:
        flow.units.freeze(ids.ravel(), f"{describe(node)} leaves it no dimension of its own")
        return dims
    kept = varying[-1]
    rows = np.moveaxis(ids, kept, -1).reshape(-1, ids.shape[kept])
    if len(varying) > 1:
        for row in np.unique(rows, axis=0):
            flow.units.couple(rows[0], row, f"{describe(node)} mixes it with fixed channels")
    dims[kept] = rows[0] if (rows[0] != FIXED).any() else None
    return dims


@rule("aten.permute.default", "aten.transpose.int", "aten.t.default", "aten.numpy_T.default")
def permute(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Reorder the dimensions."""
    source = args[next(iter(args))]
    value = flow.value(source)
    rank = len(value.shape)
    order = list(range(rank))
    if "dims" in args:
        order = [dim % rank for dim in args["dims"]]
    elif "dim0" in args:
        a, b = args["dim0"] % rank, args["dim1"] % rank
        order[a], order[b] = b, a
    else:
        order.reverse()
    if rank == 2 and order == [1, 0]:
        flow.transpose_parameter(node, source)
    return Value(shape_of(node), tuple(value.dims[dim] for dim in order))


@rule("aten.expand.default")
def expand(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """New leading dimensions and broadcast ones carry no units."""
    value, shape = flow.value(args[next(iter(args))]), shape_of(node)
    dims = (*(None,) * (len(shape) - len(value.shape)), *value.dims)
    return Value(shape, dims)
