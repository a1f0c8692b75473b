"""Tensors made from nothing: those of one value shrink with what they meet, others are of fixed size."""

from __future__ import annotations

from torch import fx

from pipeline.graph.flow import Flow, Value, fixed_value, shape_of
from pipeline.graph.rules.dimensions import created, first_value, freeze_dims
from pipeline.graph.rules.elementwise import overloads
from pipeline.graph.rules.registry import Arguments, rule

_UNIFORM = overloads(["zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty"])
_LIKE = overloads(["zeros_like", "ones_like", "full_like", "empty_like"])
_RANDOM_LIKE = overloads(["rand_like", "randn_like"])
_NUMBERED = overloads(
    [
        "arange",
        "range",
        "linspace",
        "logspace",
        "eye",
        "scalar_tensor",
        "tril_indices",
        "triu_indices",
        "rand",
        "randn",
        "randint",
        "randperm",
        "hann_window",
        "hamming_window",
        "blackman_window",
        "bartlett_window",
        "kaiser_window",
    ]
)


@rule(*_UNIFORM)
def uniform(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """`size` alone says how many entries there are."""
    del args
    return created(flow, shape_of(node))


@rule(*_LIKE, *_RANDOM_LIKE)
def like(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """The same size as another tensor."""
    del node
    return first_value(flow, args)


@rule(*_NUMBERED)
def numbered(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """Each entry's value depends on its place, or on chance."""
    del flow, args
    return fixed_value(node.meta["val"])


@rule(*overloads(["tril", "triu"]))
def triangle(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Which entries stay is a matter of their row and column."""
    value = first_value(flow, args)
    freeze_dims(flow, node, value.dims[-2:], "cuts a triangle out of it")
    return Value(value.shape, (*value.dims[:-2], None, None))


@rule("aten.meshgrid.default", "aten.meshgrid.indexing")
def grid(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """Every result has one dimension for each given vector."""
    dims = [ids for source in args["tensors"] for ids in flow.value(source).dims or (None,)]
    if args.get("indexing") == "xy":
        dims[:2] = dims[1::-1]
    return tuple(Value(tuple(one.shape), tuple(dims)) for one in node.meta["val"])
