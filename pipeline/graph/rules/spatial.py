"""Pooling and resizing over height and width: channels pass through."""

from __future__ import annotations

from torch import fx

from pipeline.graph.flow import Flow, Value, describe, fixed_value, shape_of
from pipeline.graph.rules.registry import Arguments, rule


@rule(
    "aten.max_pool2d.default",
    "aten.avg_pool2d.default",
    "aten.adaptive_avg_pool2d.default",
    "aten._adaptive_avg_pool2d.default",
    "aten.upsample_nearest2d.default",
    "aten.upsample_nearest2d.vec",
    "aten.upsample_bilinear2d.default",
    "aten.upsample_bilinear2d.vec",
)
def pool(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Input (N, C, H, W) or (C, H, W); units along H or W are frozen."""
    first = next(iter(args))
    return _pass_channels(flow, node, flow.value(args[first]), shape_of(node))


@rule("aten.max_pool2d_with_indices.default", "aten.adaptive_max_pool2d.default")
def pool_with_indices(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """The same, with the places of the maxima as a second result."""
    first, places = fixed_value(node.meta["val"])  # type: ignore[misc]
    source = flow.value(args[next(iter(args))])
    return _pass_channels(flow, node, source, first.shape), places


def _pass_channels(flow: Flow, node: fx.Node, value: Value, shape: tuple[int, ...]) -> Value:
    for ids in value.dims[-2:]:
        if ids is not None:
            flow.units.freeze(ids, f"{describe(node)} pools over it")
    return Value(shape, (*value.dims[:-2], None, None))
