"""View, flatten, permute, expand and their kin: the same elements under other indices."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import fx

from pipeline.graph.flow import Flow, Value, describe, shape_of
from pipeline.graph.rules.registry import Arguments, rule
from pipeline.graph.units import Ids


@rule(
    "aten.view.default",
    "aten.reshape.default",
    "aten.view_as.default",
    "aten.reshape_as.default",
    "aten._unsafe_view.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.squeeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
    "aten.squeeze_.dim",
    "aten.unsqueeze.default",
    "aten.unsqueeze_.default",
    buffer="view",
)
def reshape(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Cut both shapes into blocks of equal size; join what was there, split it into what is to be."""
    value, shape = flow.value(args[next(iter(args))]), shape_of(node)
    dims: list[Ids | None] = []
    for before, after in blocks(value.shape, shape):
        inside, wanted = value.dims[before], shape[after]
        if len(inside) == len(wanted) == 1:
            dims += inside
            continue
        whole = flow.units.join(inside, value.shape[before])
        if whole is None:
            dims += [None] * len(wanted)
        else:
            dims += flow.units.split(whole, wanted, f"{describe(node)} mixes it with fixed channels")
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


@rule(
    "aten.permute.default",
    "aten.transpose.int",
    "aten.transpose_.default",
    "aten.swapaxes.default",
    "aten.swapdims.default",
    "aten.t.default",
    "aten.numpy_T.default",
    "aten.mT.default",
    "aten.mH.default",
    "aten.adjoint.default",
    "aten.movedim.int",
    "aten.movedim.intlist",
)
def permute(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Reorder the dimensions."""
    value = flow.value(args[next(iter(args))])
    order = _order(str(node.target).split(".")[1], len(value.shape), args)
    return Value(shape_of(node), tuple(value.dims[dim] for dim in order))


def _order(name: str, rank: int, args: Arguments) -> list[int]:
    """Return for each dimension of the result which one of the input it is."""
    order = list(range(rank))
    if name == "permute":
        return [dim % rank for dim in args["dims"]]
    if name == "movedim":
        given = (args["source"], args["destination"])
        source, destination = ([x % rank for x in ([x] if isinstance(x, int) else x)] for x in given)
        rest = iter(dim for dim in order if dim not in source)
        return [source[destination.index(dim)] if dim in destination else next(rest) for dim in order]
    if name in {"mT", "mH", "adjoint"}:
        return [*order[:-2], rank - 1, rank - 2]
    if name in {"t", "numpy_T"}:
        return order[::-1]
    _, first, second = list(args.values())[:3]
    order[first], order[second] = order[second], order[first]
    return order


@rule("aten.expand.default", "aten.expand_as.default", "aten.broadcast_to.default")
def expand(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Copies along a new or broadcast dimension are all alike: as many of them as are wanted may go."""
    value, shape = flow.value(args[next(iter(args))]), shape_of(node)
    new = len(shape) - len(value.shape)
    dims = [
        flow.units.fresh(size) if dim < new or value.shape[dim - new] != size else value.dims[dim - new]
        for dim, size in enumerate(shape)
    ]
    return Value(shape, tuple(dims))
