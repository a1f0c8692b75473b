"""Shuffles, repeats and other moves of entries within dimensions."""

from __future__ import annotations

import numpy as np
from torch import fx

from pipeline.graph.flow import Flow, Value, describe, shape_of
from pipeline.graph.rules.dimensions import chosen_dims, first_value, freeze_dims, with_dim
from pipeline.graph.rules.registry import Arguments, refuse, rule
from pipeline.graph.units import FIXED, Ids


@rule("aten.pixel_shuffle.default")
def pixel_shuffle(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """(..., C * r * r, H, W) to (..., C, H * r, W * r)."""
    value, shape = first_value(flow, args), shape_of(node)
    ids, out = value.dims[-3], None
    if ids is not None:
        reason = f"{describe(node)} mixes it with fixed channels"
        out, inner = flow.units.split(ids, (shape[-3], value.shape[-3] // shape[-3]), reason)
        freeze_dims(flow, node, [inner], "lays it out over space")
    freeze_dims(flow, node, value.dims[-2:], "lays it out over space")
    return Value(shape, (*value.dims[:-3], out, None, None))


@rule("aten.pixel_unshuffle.default")
def pixel_unshuffle(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """The inverse: every channel becomes r * r of them."""
    value, shape = first_value(flow, args), shape_of(node)
    freeze_dims(flow, node, value.dims[-2:], "takes it apart")
    channels = value.shape[-3]
    out = flow.units.join([value.dims[-3], None], (channels, shape[-3] // channels))
    return Value(shape, (*value.dims[:-3], out, None, None))


@rule("aten.channel_shuffle.default", "aten.native_channel_shuffle.default")
def channel_shuffle(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Channels (groups, channels a group) become (channels a group, groups)."""
    value = first_value(flow, args)
    ids, groups = value.dims[1], int(args["groups"])
    if ids is None:
        return value
    flow.units.split(ids, (groups, len(ids) // groups), f"{describe(node)} groups it with fixed channels")
    return with_dim(value, value.shape, 1, ids.reshape(groups, -1).T.reshape(-1))


@rule("aten.flip.default", "aten.fliplr.default", "aten.flipud.default")
def flip(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """The last entry comes first."""
    value = first_value(flow, args)
    other = {"fliplr": [1], "flipud": [0]}.get(str(node.target).split(".")[1], [])
    turned = chosen_dims(args["dims"], len(value.shape)) if "dims" in args else other
    dims = [
        ids if ids is None or dim not in turned else ids[::-1].copy() for dim, ids in enumerate(value.dims)
    ]
    return Value(value.shape, tuple(dims))


@rule("aten.roll.default")
def roll(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """The last `shift` entries of a dimension come first."""
    value = first_value(flow, args)
    if not args["dims"]:
        return refuse(flow, node, f"{describe(node)} takes all dimensions as one")
    shifts = [args["shifts"]] if isinstance(args["shifts"], int) else list(args["shifts"])
    dims = list(value.dims)
    for dim, shift in zip(chosen_dims(args["dims"], len(dims)), shifts, strict=True):
        ids = dims[dim]
        dims[dim] = None if ids is None else np.roll(ids, shift)
    return Value(value.shape, tuple(dims))


@rule("aten.repeat.default", "aten.tile.default")
def repeat(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Each dimension so many times over; new ones come in front."""
    value, shape = first_value(flow, args), shape_of(node)
    new = len(shape) - len(value.shape)
    dims = [
        _repeated(flow, None if dim < new else value.dims[dim - new], old, size)
        for dim, (old, size) in enumerate(zip((1,) * new + value.shape, shape, strict=True))
    ]
    return Value(shape, tuple(dims))


@rule("aten.repeat_interleave.self_int")
def repeat_interleave(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """Each entry so many times in a row."""
    value, shape = first_value(flow, args), shape_of(node)
    if args["dim"] is None and len(value.shape) != 1:
        return refuse(flow, node, f"{describe(node)} takes all dimensions as one")
    (dim,) = chosen_dims(int(args["dim"] or 0), len(shape))
    ids = value.dims[dim]
    if ids is None:
        return with_dim(value, shape, dim, _repeated(flow, None, value.shape[dim], shape[dim]))
    return with_dim(value, shape, dim, np.repeat(ids, shape[dim] // value.shape[dim]))


@rule("aten.glu.default")
def gated(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """The first half of a dimension times the sigmoid of the second: the halves are the same units."""
    value, shape = first_value(flow, args), shape_of(node)
    (dim,) = chosen_dims(int(args["dim"]), len(shape))
    ids = value.dims[dim]
    if ids is not None:
        first, second = ids[: shape[dim]], ids[shape[dim] :]
        flow.units.couple(first, second, f"{describe(node)} combines it with fixed channels")
        ids = np.where(first == FIXED, second, first)
    return with_dim(value, shape, dim, ids)


def _repeated(flow: Flow, ids: Ids | None, before: int, after: int) -> Ids | None:
    """Copies of a single entry are all alike: as many of them as are wanted may go."""
    if ids is None:
        return flow.units.fresh(after) if before == 1 and after > 1 else None
    return np.tile(ids, after // before)
