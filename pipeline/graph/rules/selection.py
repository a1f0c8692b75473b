"""Slices, splits and picks: the chosen entries keep their units."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx

from pipeline.graph.flow import Flow, Value, describe, shape_of
from pipeline.graph.rules.dimensions import (
    chosen_dims,
    first_value,
    fixed_results,
    freeze_dims,
    listed,
    some,
    with_dim,
)
from pipeline.graph.rules.registry import Arguments, rule


@rule("aten.slice.Tensor", "aten.slice_copy.Tensor")
def cut(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """`start`, `end` and `step` as in Python."""
    return _part(first_value(flow, args), shape_of(node), args["dim"], _slice(args))


@rule("aten.narrow.default", "aten.narrow_copy.default")
def narrow(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """`length` entries from `start` on."""
    value = first_value(flow, args)
    start = int(args["start"]) % max(value.shape[int(args["dim"])], 1)
    return _part(value, shape_of(node), args["dim"], slice(start, start + int(args["length"])))


@rule("aten.select.int", "aten.select_copy.int")
def select(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """One entry of a dimension, which vanishes; its units are frozen: the number is the model's."""
    value = first_value(flow, args)
    dim = int(args["dim"]) % len(value.shape)
    freeze_dims(flow, node, [value.dims[dim]], "picks one of it by number")
    return Value(shape_of(node), value.dims[:dim] + value.dims[dim + 1 :])


@rule("aten.unbind.int")
def unbind(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """All entries of a dimension, one by one; the code that takes them apart knows how many there are."""
    value = first_value(flow, args)
    dim = int(args["dim"]) % len(value.shape)
    freeze_dims(flow, node, [value.dims[dim]], "takes its entries apart")
    return tuple(Value(one.shape, value.dims[:dim] + value.dims[dim + 1 :]) for one in fixed_results(node))


@rule(
    "aten.chunk.default",
    "aten.unsafe_chunk.default",
    "aten.split.Tensor",
    "aten.split.sizes",
    "aten.split.default",
    "aten.unsafe_split.Tensor",
    "aten.split_with_sizes.default",
    "aten.unsafe_split_with_sizes.default",
    "aten.tensor_split.sections",
    "aten.tensor_split.indices",
)
def split(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """Consecutive parts of a dimension."""
    value = first_value(flow, args)
    dim = int(args["dim"]) % len(value.shape)
    parts, start = [], 0
    for one in fixed_results(node):
        parts.append(_part(value, one.shape, dim, slice(start, start + one.shape[dim])))
        start += one.shape[dim]
    return tuple(parts)


@rule("<built-in function getitem>", buffer="view")
def item(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """One result of an operator that gives several."""
    del node
    source, index = args["args"]
    values = flow.values[source]
    return values[index] if isinstance(values, tuple) else values


@rule("aten.diagonal.default")
def diagonal(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Entries whose two indices are equal, as a last dimension."""
    value = first_value(flow, args)
    gone = chosen_dims([args["dim1"], args["dim2"]], len(value.shape))
    freeze_dims(flow, node, [value.dims[dim] for dim in gone], "takes its diagonal")
    kept = [ids for dim, ids in enumerate(value.dims) if dim not in gone]
    return Value(shape_of(node), (*kept, None))


@rule("aten.slice_scatter.default", "aten.select_scatter.default")
def replace_part(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """`self` with a slice, or one entry, of a dimension replaced by `src`."""
    value, source = flow.value(args["self"]), flow.value(args["src"])
    dim = int(args["dim"]) % len(value.shape)
    reason = f"{describe(node)} combines it with a tensor of fixed width"
    new = list(source.dims)
    if "index" in args:
        freeze_dims(flow, node, [value.dims[dim]], "picks one of it by number")
        new.insert(dim, None)
    elif value.dims[dim] is not None or new[dim] is not None:
        place = listed(value.dims[dim], value.shape[dim])[_slice(args)]
        flow.units.couple(place, listed(new[dim], source.shape[dim]), reason)
    dims = [
        value.dims[each] if each == dim else flow.merge([value.dims[each], new[each]], reason)
        for each in range(len(value.dims))
    ]
    return Value(value.shape, tuple(dims))


def _slice(args: Arguments) -> slice:
    return slice(args["start"], args["end"], args["step"])


def _part(value: Value, shape: Sequence[int], dim: int, chosen: slice) -> Value:
    dim = int(dim) % len(value.shape)
    ids = value.dims[dim]
    return with_dim(value, tuple(shape), dim, None if ids is None else some(ids[chosen]))
