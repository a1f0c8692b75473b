"""Pooling, resizing and sampling over one to three dimensions of space: channels pass through."""

from __future__ import annotations

from torch import fx

from pipeline.graph.flow import Flow, Value, describe, shape_of
from pipeline.graph.rules.dimensions import first_value, fixed_results, freeze_dims, with_dim
from pipeline.graph.rules.elementwise import overloads
from pipeline.graph.rules.registry import Arguments, rule

_RESIZED = """upsample_nearest{} _upsample_nearest_exact{} upsample_linear{} upsample_bilinear{} upsample_bicubic{}
upsample_trilinear{} _upsample_bilinear{}_aa _upsample_bicubic{}_aa _upsample_lanczos{}_aa"""
_NAMES = (
    """avg_pool{} max_pool{} adaptive_avg_pool{} _adaptive_avg_pool{} mkldnn_max_pool{}""" + " " + _RESIZED
)
_IN_TWO = "max_pool{}_with_indices adaptive_max_pool{} fractional_max_pool{}"


def _every_rank(names: str) -> list[str]:
    """Return the ATen targets of operators that exist over one, two and three dimensions of space."""
    return [target for rank in ("1d", "2d", "3d") for target in overloads(names.replace("{}", rank).split())]


@rule(*_every_rank(_NAMES))
def pool(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Input (N, C, space...) or (C, space...); units along space are frozen."""
    return _pass_channels(flow, node, args, shape_of(node))


@rule(*_every_rank(_IN_TWO))
def pool_with_indices(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """The same, with the places of the maxima as a second result."""
    return tuple(_pass_channels(flow, node, args, one.shape) for one in fixed_results(node))


@rule(*overloads(["max_unpool2d", "max_unpool3d"]))
def unpool(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Values go back to their places, given by a tensor of the same shape."""
    value, places = flow.value(args["self"]), flow.value(args["indices"])
    rank = _rank(node)
    freeze_dims(flow, node, [*value.dims[-rank:], *places.dims[-rank:]], "pools over it")
    reason = f"{describe(node)} combines it with a tensor of fixed width"
    kept = [flow.merge(pair, reason) for pair in zip(value.dims[:-rank], places.dims[:-rank], strict=True)]
    return Value(shape_of(node), (*kept, *(None,) * rank))


@rule(*overloads(["grid_sampler", "grid_sampler_2d", "grid_sampler_3d"]))
def sample(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Input (N, C, space...), grid (N, new space..., coordinates): the result has the grid's places."""
    value, grid = flow.value(args["input"]), flow.value(args["grid"])
    freeze_dims(flow, node, [*value.dims[2:], grid.dims[-1]], "samples it by coordinates")
    batch = flow.merge(
        [value.dims[0], grid.dims[0]], f"{describe(node)} combines it with a tensor of fixed width"
    )
    return Value(shape_of(node), (batch, value.dims[1], *grid.dims[1:-1]))


@rule("aten.im2col.default")
def windows(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """(..., C, H, W) to (..., C * kernel, places): each channel has one entry for every place of the kernel."""
    value, shape = first_value(flow, args), shape_of(node)
    freeze_dims(flow, node, value.dims[-2:], "cuts windows out of it")
    channels = value.shape[-3]
    out = flow.units.join([value.dims[-3], None], (channels, shape[-2] // channels))
    return Value(shape, (*value.dims[:-3], out, None))


@rule("aten.col2im.default")
def from_windows(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """The inverse; the places of the kernel are of fixed number."""
    value, shape = first_value(flow, args), shape_of(node)
    ids, out = value.dims[-2], None
    if ids is not None:
        grid = (shape[-3], value.shape[-2] // shape[-3])
        out, kernel = flow.units.split(ids, grid, f"{describe(node)} mixes it with fixed channels")
        freeze_dims(flow, node, [kernel], "lays out windows of it")
    freeze_dims(flow, node, value.dims[-1:], "lays out windows of it")
    return Value(shape, (*value.dims[:-2], out, None, None))


@rule("aten.unfold.default", "aten.unfold_copy.default")
def sliding(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Windows of one dimension, whose entries become a last dimension."""
    value, shape = first_value(flow, args), shape_of(node)
    dim = int(args["dimension"]) % max(len(value.shape), 1)
    freeze_dims(flow, node, value.dims[dim : dim + 1], "cuts windows out of it")
    moved = with_dim(value, shape[:-1], dim, None)
    return Value(shape, (*moved.dims, None))


def _pass_channels(flow: Flow, node: fx.Node, args: Arguments, shape: tuple[int, ...]) -> Value:
    value, rank = first_value(flow, args), _rank(node)
    freeze_dims(flow, node, value.dims[-rank:], "pools over it")
    return Value(shape, (*value.dims[:-rank], *(None,) * rank))


def _rank(node: fx.Node) -> int:
    """Return over how many dimensions of space an operator works, from its name."""
    name = str(node.target)
    return next(rank for rank in (1, 2, 3) if f"{rank}d" in name)
