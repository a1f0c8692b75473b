"""The register of rules; an operator that has none freezes what reaches it, with the reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import fx

from pipeline.graph.flow import Flow, Value, describe, fixed_value

Buffer = Literal["new", "in_place", "view"]
Arguments = dict[str, Any]
Propagate = Callable[[Flow, fx.Node, Arguments], Value | tuple[Value, ...]]
P = TypeVar("P", bound=Propagate)


@dataclass(frozen=True)
class Rule:
    """How an operator passes units on, and where its result lives.

    `buffer` is "new" for memory of its own, "in_place" where a runtime can overwrite the input if nobody
    else needs it, "view" where the result is the input's memory.
    """

    propagate: Propagate
    buffer: Buffer


RULES: dict[str, Rule] = {}


def rule(*targets: str, buffer: Buffer = "new") -> Callable[[P], P]:
    """Register a function as the rule of these ATen targets ("aten.relu.default").

    A rule is called with the flow, the node and the node's arguments by their names in the operator's schema.
    """

    def register(function: P) -> P:
        for target in targets:
            RULES[target] = Rule(function, buffer)
        return function

    return register


def apply(flow: Flow, node: fx.Node) -> Value | tuple[Value, ...]:
    """Return what `node` gives, by its operator's rule; without one, freeze what reaches it."""
    found = RULES.get(str(node.target))
    if found is None:
        return refuse(flow, node, f"operator {describe(node)} has no pruning rule")
    value = found.propagate(flow, node, arguments(node))
    return _never_empty(flow, node, value) if isinstance(value, Value) else value


def _never_empty(flow: Flow, node: fx.Node, value: Value) -> Value:
    """A unit that is alone along a dimension stays: what is left of the dimension is of use to all it meets."""
    alone = [dim for dim, size in enumerate(value.shape) if size == 1 and value.dims[dim] is not None]
    for dim in alone:
        flow.units.freeze(value.dims[dim], f"{describe(node)} picks one of it by number")  # type: ignore[arg-type]
    return Value(value.shape, tuple(None if dim in alone else ids for dim, ids in enumerate(value.dims)))


def refuse(flow: Flow, node: fx.Node, reason: str) -> Value | tuple[Value, ...]:
    """Freeze all units that reach `node` and return its result as of fixed size."""
    for source in node.all_input_nodes:
        freeze_all(flow, source, reason)
    return fixed_value(node.meta.get("val"))


def freeze_all(flow: Flow, node: fx.Node, reason: str) -> None:
    """Freeze every unit of every tensor that `node` gives."""
    values = flow.value(node) if flow.parameter(node) is not None else flow.values.get(node, ())
    for value in values if isinstance(values, tuple) else (values,):
        flow.freeze(value, reason)


def arguments(node: fx.Node) -> Arguments:
    """Return a node's arguments by their names in the operator's schema, defaults included."""
    schema = getattr(node.target, "_schema", None)
    defaults = {} if schema is None else {each.name: each.default_value for each in schema.arguments}
    return {**defaults, **given_arguments(node)}


def given_arguments(node: fx.Node) -> Arguments:
    """Return the same without those that are left at their defaults."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return {"args": node.args, **node.kwargs}
    names = [argument.name for argument in schema.arguments]
    return {**dict(zip(names, node.args, strict=False)), **node.kwargs}
