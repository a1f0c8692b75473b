"""Picks by a tensor of indices, and writes to such places."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from pipeline.graph.flow import Flow, Value, describe, shape_of
from pipeline.graph.rules.dimensions import chosen_dims, first_value, freeze_dims, some, with_dim
from pipeline.graph.rules.elementwise import overloads
from pipeline.graph.rules.registry import Arguments, refuse, rule
from pipeline.graph.units import Ids

_BY_NUMBER = "picks some of it by number"


@rule("aten.index_select.default")
def index_select(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """A vector of indices along one dimension."""
    value = first_value(flow, args)
    (dim,) = chosen_dims(int(args["dim"]), len(value.shape))
    return with_dim(value, shape_of(node), dim, _picked(flow, node, value.dims[dim], args["index"]))


@rule("aten.index.Tensor")
def index(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """Some dimensions indexed by tensors, broadcast against each other; `None` leaves a dimension as it is."""
    value, given = first_value(flow, args), list(args["indices"])
    indexed = [dim for dim, source in enumerate(given) if source is not None]
    if any(source.meta["val"].dtype in {torch.bool, torch.uint8} for source in given if source is not None):
        return refuse(flow, node, f"{describe(node)} picks some of it by its values")
    if len(indexed) == 1 and len(shape_of(given[indexed[0]])) == 1:
        dim = indexed[0]
        return with_dim(value, shape_of(node), dim, _picked(flow, node, value.dims[dim], given[dim]))
    freeze_dims(flow, node, [value.dims[dim] for dim in indexed], _BY_NUMBER)
    return Value(shape_of(node), tuple(_indexed_dims(flow, node, value, given, indexed)))


@rule("aten.gather.default", "aten.take_along_dim.default")
def gather(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """Each entry of the index says where along `dim` to look; along the others both go together."""
    value, places = first_value(flow, args), flow.value(args["index"] if "index" in args else args["indices"])
    if args["dim"] is None or not value.shape:
        return refuse(flow, node, f"{describe(node)} takes all dimensions as one")
    (dim,) = chosen_dims(int(args["dim"]), len(value.shape))
    freeze_dims(flow, node, [value.dims[dim]], _BY_NUMBER)
    dims = [
        places.dims[each] if each == dim else _beside(flow, node, (value, places), each)
        for each in range(len(value.dims))
    ]
    return Value(shape_of(node), tuple(dims))


_SCATTER = ["scatter", "scatter_add", "scatter_reduce", "index_add", "index_copy", "index_fill"]


@rule(*overloads(_SCATTER))
def scatter(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Writes to places along `dim`; along the others all operands go together."""
    value = first_value(flow, args)
    (dim,) = chosen_dims(int(args["dim"]), len(value.shape))
    others = [flow.value(source) for source in node.all_input_nodes if source is not args["self"]]
    others = [other for other in others if other.shape]
    freeze_dims(flow, node, [value.dims[dim]], "writes to some of it by number")
    for other in others:
        freeze_dims(flow, node, other.dims[dim : dim + 1], "writes some of it by number")
    whole = [value, *(other for other in others if len(other.shape) == len(value.shape))]
    dims = [
        value.dims[each] if each == dim else _beside(flow, node, whole, each)
        for each in range(len(value.dims))
    ]
    return Value(value.shape, tuple(dims))


@rule(*overloads(["index_put", "_unsafe_index_put"]))
def index_put(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """Writes values, broadcast, where `index` of the same indices would read."""
    value, given, written = flow.value(args["self"]), list(args["indices"]), flow.value(args["values"])
    indexed = [dim for dim, source in enumerate(given) if source is not None]
    first = given[indexed[0]].meta["val"]
    if len(indexed) > 1 or first.dtype in {torch.bool, torch.uint8}:
        return refuse(flow, node, f"{describe(node)} writes to some of it by its values")
    freeze_dims(flow, node, [value.dims[indexed[0]]], "writes to some of it by number")
    freeze_dims(flow, node, flow.value(given[indexed[0]]).dims, "writes to some of it by number")
    reason = f"{describe(node)} combines it with a tensor of fixed width"
    places = [None] * len(first.shape)
    target = [*value.dims[: indexed[0]], *places, *value.dims[indexed[0] + 1 :]]
    shape = (*value.shape[: indexed[0]], *first.shape, *value.shape[indexed[0] + 1 :])
    for back in range(1, len(written.shape) + 1):
        if written.shape[-back] == shape[-back]:
            flow.merge([target[-back], written.dims[-back]], reason)
    return value


def _picked(flow: Flow, node: fx.Node, ids: Ids | None, places: fx.Node) -> Ids | None:
    """Return the units along a dimension picked by a vector of indices.

    Where the dimension carries units, the indices must be known: an entry goes with what it points to.
    """
    if ids is None:
        dims = flow.value(places).dims
        return dims[0] if dims else None
    known = flow.constant(places)
    if known is None:
        freeze_dims(flow, node, [ids, *flow.value(places).dims], _BY_NUMBER)
        return None
    picked = ids[known.detach().cpu().numpy().reshape(-1)]
    flow.claim(node, places, 0, picked, "along")
    return some(picked)


def _indexed_dims(
    flow: Flow, node: fx.Node, value: Value, given: Sequence[fx.Node | None], indexed: Sequence[int]
) -> list[Ids | None]:
    """The indices' own dimensions stand where the first indexed one was, or in front if these are apart."""
    sources = [flow.value(source) for source in given if source is not None]
    rank = max(len(source.shape) for source in sources)
    reason = f"{describe(node)} combines it with a tensor of fixed width"
    dims: list[Ids | None] = []
    for back in range(rank, 0, -1):
        sides = [source for source in sources if len(source.shape) >= back]
        size = max(source.shape[-back] for source in sides)
        dims.append(flow.merge([side.dims[-back] for side in sides if side.shape[-back] == size], reason))
    together = indexed[-1] - indexed[0] == len(indexed) - 1
    place = indexed[0] if together else 0
    kept = [ids for dim, ids in enumerate(value.dims) if dim not in indexed]
    return [*kept[:place], *dims, *kept[place:]]


def _beside(flow: Flow, node: fx.Node, operands: Sequence[Value], dim: int) -> Ids | None:
    """Couple a dimension of all operands; where their sizes differ, the first few entries are meant."""
    parts = [operand.dims[dim] for operand in operands]
    if len({operand.shape[dim] for operand in operands}) > 1:
        freeze_dims(flow, node, parts, _BY_NUMBER)
        return None
    return flow.merge(parts, f"{describe(node)} combines it with a tensor of fixed width")
