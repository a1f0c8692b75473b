"""Assertions and sizes that a capture leaves behind: they take no part in the result."""

from __future__ import annotations

from torch import fx

from pipeline.graph.flow import Flow, Value, fixed_value
from pipeline.graph.rules.elementwise import overloads
from pipeline.graph.rules.registry import Arguments, rule

_CHECKS = overloads(["_assert_tensor_metadata", "_assert_async", "_assert_scalar", "sym_size", "sym_numel"])


@rule(*_CHECKS)
def check(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """Nothing is coupled or frozen."""
    del flow, args
    return fixed_value(node.meta.get("val"))
