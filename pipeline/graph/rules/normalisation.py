"""Batch normalisation: every channel has its own scale, shift, mean and variance."""

from __future__ import annotations

from torch import fx

from pipeline.graph.flow import Flow, Value, fixed_value
from pipeline.graph.rules.registry import Arguments, rule


@rule("aten.batch_norm.default", buffer="in_place")
def batch_norm(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Input (N, C, ...): all four vectors follow C."""
    value = flow.value(args["input"])
    for vector in ("weight", "bias", "running_mean", "running_var"):
        flow.claim(node, args[vector], 0, value.dims[1], "along")
    return value


@rule("aten._native_batch_norm_legit_no_training.default", buffer="in_place")
def native_batch_norm(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """The same after decomposition; the saved statistics of its result are empty in eval mode."""
    rest = fixed_value(node.meta["val"])
    value = flow.value(args["input"])
    batch_norm(flow, node, args)
    return (value, *(rest[1:] if isinstance(rest, tuple) else ()))
