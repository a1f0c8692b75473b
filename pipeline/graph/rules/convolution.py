"""2-D convolutions: plain ones make units, depthwise ones pass them on, grouped ones couple theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import fx

from pipeline.graph.flow import Flow, LayerTrace, Value, describe, layer_name, shape_of
from pipeline.graph.rules.registry import Arguments, refuse, rule
from pipeline.graph.units import Ids


@rule("aten.conv2d.default", "aten.conv2d.padding")
def convolution(flow: Flow, node: fx.Node, args: Arguments) -> Value | tuple[Value, ...]:
    """Weight (out, in / groups, kh, kw): `out` carries the result's channels, `in` the input's."""
    name = flow.parameter(args["weight"])
    if name is None or flow.is_transposed(args["weight"]):
        return refuse(flow, node, f"{describe(node)} has a computed weight")
    value, groups = flow.value(args["input"]), int(args["groups"])
    out_width, in_per_group, *_ = shape_of(args["weight"])
    incoming = value.dims[-3]
    if groups == 1:
        weight_in, out = incoming, flow.units.fresh(out_width)
    elif in_per_group == 1:
        weight_in, out = None, _follow(flow, name, incoming, out_width // groups)
    else:
        weight_in = _same_in_every_group(flow, incoming, groups, describe(node))
        out = _repeat_in_every_group(flow.units.fresh(out_width // groups), groups)
    flow.claim(node, args["weight"], 0, out, "out")
    flow.claim(node, args["weight"], 1, weight_in, "in")
    flow.claim(node, args["bias"], 0, out, "along")
    flow.layers.append(_layer(node, args, name, incoming, out))
    shape = shape_of(node)
    return Value(shape, (*(None,) * (len(shape) - 3), out, None, None))


def _follow(flow: Flow, name: str, incoming: Ids | None, multiplier: int) -> Ids | None:
    """Depthwise: output channel i comes from input channel i // multiplier alone."""
    if incoming is None:
        flow.notes.append((layer_name(name), "a depthwise layer on channels of fixed number"))
        return None
    return np.repeat(incoming, multiplier)


def _same_in_every_group(flow: Flow, incoming: Ids | None, groups: int, place: str) -> Ids | None:
    """Couple the channel at the same place of every group, so that all groups keep the same number."""
    if incoming is None:
        return None
    blocks: Ids = incoming.reshape(groups, -1)
    for block in blocks[1:]:
        flow.units.couple(blocks[0], block, f"{place} groups it with fixed channels")
    return np.asarray(blocks[0])


def _repeat_in_every_group(out: Ids | None, groups: int) -> Ids | None:
    return None if out is None else np.tile(out, groups)


def _layer(node: fx.Node, args: Arguments, name: str, incoming: Ids | None, out: Ids | None) -> LayerTrace:
    shape_in, shape_out, weight = shape_of(args["input"]), shape_of(node), shape_of(args["weight"])
    kernel = (weight[2], weight[3])
    dilation = _pair(args["dilation"])
    return LayerTrace(
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


def _pair(value: Any) -> tuple[int, int]:
    first, *rest = value if isinstance(value, list | tuple) else (value,)
    return int(first), int(rest[0] if rest else first)


def _padding(value: Any, kernel: tuple[int, int], dilation: tuple[int, int]) -> tuple[int, int]:
    """Return the padding as numbers; where "same" pads one side more, the lesser."""
    if value == "same":
        return dilation[0] * (kernel[0] - 1) // 2, dilation[1] * (kernel[1] - 1) // 2
    return (0, 0) if value == "valid" else _pair(value)
