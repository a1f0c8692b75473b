"""Convolutions of any rank, plain, grouped, depthwise and transposed: they consume units and make new ones."""

from __future__ import annotations

from typing import Any

from torch import fx

from pipeline.graph.flow import Flow, LayerTrace, Value, describe, layer_name, shape_of
from pipeline.graph.rules.dimensions import freeze_dims
from pipeline.graph.rules.registry import Arguments, rule
from pipeline.graph.units import Ids


@rule(*(f"aten.conv{rank}d.{kind}" for rank in (1, 2, 3) for kind in ("default", "padding")))
def convolution(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Weight (out, in / groups, kernel...): `out` carries the result's channels, `in` the input's.

    With groups, both channel dimensions are grids (groups, channels a group) with the same groups. A depthwise
    layer is one whose groups have one input channel, its multiplier the channels that each makes.
    """
    weight, groups = args["weight"], int(args["groups"])
    value, (out_width, in_each, *kernel) = flow.value(args["input"]), shape_of(weight)
    incoming = value.dims[-1 - len(kernel)]
    if groups == 1:
        flow.claim(node, weight, 1, incoming, "in")
        out = flow.produce(node, weight, 0)
    else:
        axis, inside = _grid(flow, node, incoming, (groups, in_each))
        flow.claim(node, weight, 1, inside, "in")
        each = out_width // groups
        out = flow.units.join([axis, flow.units.fresh(each)], (groups, each))
        flow.claim(node, weight, 0, out, "out")
        _note_fixed_depthwise(flow, weight, out, in_each)
    flow.claim(node, args["bias"], 0, out, "along")
    _note_layer(flow, node, args, incoming, out)
    return _over_space(flow, node, weight, value, out)


@rule(*(f"aten.conv_transpose{rank}d.{'default' if rank == 1 else 'input'}" for rank in (1, 2, 3)))
def transposed(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """Weight (in, out / groups, kernel...); input and result channels are grids with the same groups."""
    weight, groups = args["weight"], int(args["groups"])
    value, (in_width, out_each, *kernel) = flow.value(args["input"]), shape_of(weight)
    incoming = value.dims[-1 - len(kernel)]
    axis, _ = _grid(flow, node, incoming, (groups, in_width // groups))
    flow.claim(node, weight, 0, incoming, "in")
    out = flow.units.join([axis, flow.produce(node, weight, 1)], (groups, out_each))
    flow.claim(node, args["bias"], 0, out, "along")
    return _over_space(flow, node, weight, value, out)


@rule("aten.convolution.default")
def decomposed(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """Either of the two, as they are after decomposition."""
    return (transposed if args["transposed"] else convolution)(flow, node, args)


def _grid(
    flow: Flow, node: fx.Node, ids: Ids | None, shape: tuple[int, int]
) -> tuple[Ids | None, Ids | None]:
    if ids is None:
        return None, None
    axis, inside = flow.units.split(ids, shape, f"{describe(node)} groups it with fixed channels")
    return axis, inside


def _over_space(flow: Flow, node: fx.Node, weight: fx.Node, value: Value, out: Ids | None) -> Value:
    """Where the kernel is of size one and moves on by one, every place is by itself; else all are needed."""
    shape, kernel = shape_of(node), shape_of(weight)[2:]
    for dim in range(len(kernel)):
        flow.claim(node, weight, dim + 2, None, "along")
    channels = len(shape) - 1 - len(kernel)
    space: list[Ids | None] = []
    for dim, size in enumerate(kernel, start=channels + 1):
        alone = size == 1 and shape[dim] == value.shape[dim]
        freeze_dims(flow, node, [] if alone else [value.dims[dim]], "slides over it")
        space.append(value.dims[dim] if alone else None)
    return Value(shape, (*value.dims[:channels], out, *space))


def _note_fixed_depthwise(flow: Flow, weight: fx.Node, out: Ids | None, in_each: int) -> None:
    name = flow.parameter(weight)
    if out is None and in_each == 1 and name is not None:
        flow.notes.append((layer_name(name), "a depthwise layer on channels of fixed number"))


def _note_layer(flow: Flow, node: fx.Node, args: Arguments, incoming: Ids | None, out: Ids | None) -> None:
    """Record a 2-D convolution whose weight is a parameter."""
    name, weight = flow.parameter(args["weight"]), shape_of(args["weight"])
    if name is None or len(weight) != 4:
        return
    shape_in, shape_out = shape_of(args["input"]), shape_of(node)
    kernel, dilation = (weight[2], weight[3]), _pair(args["dilation"])
    flow.layers.append(
        LayerTrace(
            name=layer_name(name),
            kind="conv2d",
            node=node,
            in_ids=incoming,
            out_ids=out,
            in_width=shape_in[-3],
            out_width=weight[0],
            input_hw=(shape_in[-2], shape_in[-1]),
            output_hw=(shape_out[-2], shape_out[-1]),
            bias=args["bias"] is not None,
            kernel=kernel,
            stride=_pair(args["stride"]),
            padding=_padding(args["padding"], kernel, dilation),
            dilation=dilation,
            groups=int(args["groups"]),
        )
    )


def _pair(value: Any) -> tuple[int, int]:
    first, *rest = value if isinstance(value, list | tuple) else (value,)
    return int(first), int(rest[0] if rest else first)


def _padding(value: Any, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """Return the padding as numbers; where "same" pads one side more, the lesser."""
    if value == "same":
        return dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2
    return (0, 0) if value == "valid" else _pair(value)
