"""Normalisation: scales and shifts follow what they scale; statistics are those of the entries that stay."""

from __future__ import annotations

from torch import fx

from pipeline.graph.flow import Flow, Value, describe
from pipeline.graph.rules.dimensions import fixed_results
from pipeline.graph.rules.registry import Arguments, rule
from pipeline.graph.units import Ids


@rule("aten.batch_norm.default", "aten.instance_norm.default", buffer="in_place")
def batch_norm(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Input (N, C, ...): all four vectors follow C."""
    return _by_channel(flow, node, args, flow.value(args["input"]))


@rule(
    "aten._native_batch_norm_legit_no_training.default",
    "aten._native_batch_norm_legit.default",
    "aten._native_batch_norm_legit.no_stats",
    "aten._native_batch_norm_legit_functional.default",
    "aten._batch_norm_no_update.default",
    "aten._batch_norm_with_update.default",
    "aten._batch_norm_with_update_functional.default",
    "aten.native_batch_norm.default",
    "aten.cudnn_batch_norm.default",
    buffer="in_place",
)
def native_batch_norm(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """The same after decomposition; further results are one statistic a channel, or empty in eval mode."""
    value = _by_channel(flow, node, args, flow.value(args["input"]))
    channels = value.shape[1]
    rest = [
        Value(one.shape, (value.dims[1],)) if one.shape == (channels,) else one for one in fixed_results(node)
    ]
    return (value, *rest[1:])


@rule("aten.layer_norm.default", "aten.rms_norm.default", buffer="in_place")
def layer_norm(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Weight and bias have the shape of the normalised dimensions, the last ones."""
    return _by_last_dims(flow, node, args)


@rule("aten.native_layer_norm.default", "aten._fused_rms_norm.default", buffer="in_place")
def native_layer_norm(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """The same; means and deviations have size one along what was normalised."""
    value = _by_last_dims(flow, node, args)
    kept = value.dims[: len(value.dims) - len(args["normalized_shape"])]
    statistics = [_leading(one, kept) for one in fixed_results(node)[1:]]
    return (value, *statistics)


@rule("aten.group_norm.default", buffer="in_place")
def group_norm(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Input (N, C, ...): C is a grid (groups, channels a group) of which either axis may shrink."""
    value = flow.value(next(iter(args.values())))
    _split_channels(flow, node, value, int(args["num_groups"]))
    return _by_channel(flow, node, args, value)


@rule("aten.native_group_norm.default", buffer="in_place")
def native_group_norm(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """The same; means and deviations are one a group."""
    value, groups = flow.value(args["input"]), int(args["group"])
    axis = _split_channels(flow, node, value, groups)
    _by_channel(flow, node, args, value)
    statistics = [Value(one.shape, (value.dims[0], axis)) for one in fixed_results(node)[1:]]
    return (value, *statistics)


def _by_channel(flow: Flow, node: fx.Node, args: Arguments, value: Value) -> Value:
    for vector in ("weight", "bias", "running_mean", "running_var"):
        flow.claim(node, args.get(vector), 0, value.dims[1], "along")
    return value


def _by_last_dims(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    value = flow.value(args["input"])
    for vector in ("weight", "bias"):
        for dim, ids in enumerate(value.dims[len(value.dims) - len(args["normalized_shape"]) :]):
            flow.claim(node, args.get(vector), dim, ids, "along")
    return value


@rule("aten._weight_norm.default")
def weight_norm(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """A direction times a length: one length for each entry along `dim`, one for all without it."""
    return _scaled_to_length(flow, node, args)


@rule("aten._weight_norm_interface.default")
def native_weight_norm(flow: Flow, node: fx.Node, args: Arguments) -> tuple[Value, ...]:
    """The same; the second result holds the norms, in the shape of the lengths."""
    value = _scaled_to_length(flow, node, args)
    norms = fixed_results(node)[1]
    dims = [ids if size > 1 else None for ids, size in zip(value.dims, norms.shape, strict=True)]
    return value, Value(norms.shape, tuple(dims))


def _scaled_to_length(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    value, length = flow.value(args["v"]), flow.value(args["g"])
    reason = f"{describe(node)} combines it with a tensor of fixed width"
    same = [dim for dim, size in enumerate(length.shape) if size == value.shape[dim] > 1]
    dims = [
        flow.merge([ids, length.dims[dim]], reason) if dim in same else ids
        for dim, ids in enumerate(value.dims)
    ]
    return Value(value.shape, tuple(dims))


def _split_channels(flow: Flow, node: fx.Node, value: Value, groups: int) -> Ids | None:
    ids = value.dims[1]
    if ids is None:
        return None
    reason = f"{describe(node)} groups it with fixed channels"
    return flow.units.split(ids, (groups, value.shape[1] // groups), reason)[0]


def _leading(result: Value, kept: tuple[Ids | None, ...]) -> Value:
    return Value(result.shape, (*kept, *(None,) * (len(result.shape) - len(kept))))
