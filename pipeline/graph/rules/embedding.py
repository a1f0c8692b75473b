"""Embeddings: rows of a table are looked up by number, so all stay; its columns are channels."""

from __future__ import annotations

from torch import fx

from pipeline.graph.flow import Flow, Value, shape_of
from pipeline.graph.rules.dimensions import fixed_results
from pipeline.graph.rules.registry import Arguments, rule
from pipeline.graph.units import Ids


@rule("aten.embedding.default")
def embedding(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Weight (entries, width), indices of any shape."""
    return Value(shape_of(node), (*flow.value(args["indices"]).dims, _columns(flow, node, args)))


@rule("aten.embedding_bag.padding_idx", "aten.embedding_bag.default", "aten._embedding_bag.default")
def embedding_bag(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """The first result has one row a bag; the others are indices, or maxima's places."""
    first, *rest = fixed_results(node)
    return (Value(first.shape, (None, _columns(flow, node, args))), *rest)


def _columns(flow: Flow, node: fx.Node, args: Arguments) -> Ids | None:
    flow.claim(node, args["weight"], 0, None, "along")
    return flow.produce(node, args["weight"], 1)
