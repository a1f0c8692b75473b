"""Means, sums, norms and other reductions: statistics of the entries that stay."""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx

from pipeline.graph.flow import Flow, Value, shape_of
from pipeline.graph.rules.dimensions import chosen_dims, first_value, freeze_dims
from pipeline.graph.rules.elementwise import elementwise, overloads
from pipeline.graph.rules.registry import Arguments, rule
from pipeline.graph.units import Ids

_STATISTICS = overloads(
    [
        "mean",
        "nanmean",
        "sum",
        "nansum",
        "prod",
        "amax",
        "amin",
        "var",
        "std",
        "norm",
        "linalg_vector_norm",
        "frobenius_norm",
    ]
)
_PAIRS = overloads(["var_mean", "std_mean", "aminmax"])
_EXACT = overloads(
    [
        "logsumexp",
        "any",
        "all",
        "count_nonzero",
        "argmax",
        "argmin",
        "median",
        "nanmedian",
        "mode",
        "kthvalue",
    ]
)


@rule(*_STATISTICS, "aten.max.default", "aten.min.default")
def reduce(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """`dim` empty or missing reduces all dimensions; each vanishes or, with `keepdim`, has size one."""
    return Value(shape_of(node), _left(first_value(flow, args), args))


@rule(*_PAIRS)
def reduce_to_two(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """The same with two results of one shape."""
    return _both(flow, node, args)


@rule("aten.max.dim", "aten.min.dim")
def reduce_and_find(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """Maxima and their places: a place is a number that means nothing once entries have gone."""
    places = [user for user in node.users if user.args[1:] == (1,)]
    if any(place.users for place in places):
        _freeze_reduced(flow, node, args)
    return _both(flow, node, args)


@rule(*_EXACT)
def reduce_exactly(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """Reductions that need every entry of what they reduce over."""
    _freeze_reduced(flow, node, args)
    if isinstance(node.meta["val"], list | tuple):
        return _both(flow, node, args)
    return reduce(flow, node, args)


rule("aten.max.other", "aten.min.other", buffer="in_place")(elementwise)


def _both(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    dims = _left(first_value(flow, args), args)
    return tuple(Value(tuple(one.shape), dims) for one in node.meta["val"])


def _freeze_reduced(flow: Flow, node: fx.Node, args: Arguments) -> None:
    value = first_value(flow, args)
    reduced = (value.dims[dim] for dim in _reduced(value, args))
    freeze_dims(flow, node, reduced, "reduces over it")


def _left(value: Value, args: Arguments) -> tuple[Ids | None, ...]:
    gone = _reduced(value, args)
    kept = [None if dim in gone else ids for dim, ids in enumerate(value.dims)]
    if args.get("keepdim"):
        return tuple(kept)
    return tuple(ids for dim, ids in enumerate(kept) if dim not in gone)


def _reduced(value: Value, args: Arguments) -> Iterable[int]:
    return set(chosen_dims(args.get("dim"), len(value.shape)))
