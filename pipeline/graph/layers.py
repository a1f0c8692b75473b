"""The compute layers of a traced model: their shapes, and which groups make up their widths."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import numpy as np
from torch import fx

from pipeline.graph.assemble import Grouping
from pipeline.graph.flow import Flow, LayerTrace
from pipeline.graph.groups import ComputeLayer

_ADDITIONS = {"aten.add.Tensor", "aten.add_.Tensor"}
_BATCH_NORMS = {"aten.batch_norm.default", "aten._native_batch_norm_legit_no_training.default"}


def choosable(flow: Flow, grouping: Grouping) -> tuple[str, ...]:
    """Return the groups whose widths alone make up the shapes of all layers, in order.

    One layer has one width to choose: where its outputs fall into several groups, these are left whole. So are
    the other axes of a grid.
    """
    names = {group.name: None for group in grouping.groups if group.within is None}
    primary = grouping.only(names)
    for trace in flow.layers:
        outer = primary.count(flow.units, trace.out_ids)
        if len(outer) > 1:
            for name in outer:
                names.pop(name, None)
    return tuple(names)


def compute_layers(flow: Flow, grouping: Grouping) -> tuple[ComputeLayer, ...]:
    """Return every call of a convolution or linear layer in order of execution.

    A layer that is called again is named "name#2". `grouping` has choosable groups only.
    """
    widths = {group.name: group.width for group in grouping.groups}
    calls: Counter[str] = Counter()
    layers, ends = [], dict[fx.Node, str]()
    for trace in flow.layers:
        calls[trace.name] += 1
        name = trace.name if calls[trace.name] == 1 else f"{trace.name}#{calls[trace.name]}"
        layer, end = _layer(flow, grouping, widths, trace, name)
        layer = replace(layer, takes=_sources(trace.node.args[0], ends))
        layers.append(layer)
        ends[end] = name
    return tuple(layers)


def _sources(node: object, ends: Mapping[fx.Node, str]) -> tuple[str, ...]:
    """Return the layers whose outputs arrive at `node` through additions and activations, in order of execution.

    Args:
        node: where to look back from.
        ends: the last node of what fuses into each layer so far → the layer's name.
    """
    waiting, seen, found = [node], set[fx.Node](), set[str]()
    while waiting:
        each = waiting.pop()
        if not isinstance(each, fx.Node) or each in seen:
            continue
        seen.add(each)
        if each in ends:
            found.add(ends[each])
        elif _activation(each) is not None:
            waiting.append(each.args[0])
        elif str(each.target) in _ADDITIONS:
            waiting += each.args[:2]
    return tuple(name for name in ends.values() if name in found)


def _layer(
    flow: Flow, grouping: Grouping, widths: dict[str, int], trace: LayerTrace, name: str
) -> tuple[ComputeLayer, fx.Node]:
    """Return a layer, and the last node of what fuses into it."""
    inner = grouping.count(flow.units, trace.in_ids)
    outer = grouping.count(flow.units, trace.out_ids)
    in_groups, in_repeat = _terms(inner, widths)
    out_group = next(iter(outer), None)
    norm, activation, end = _followers(trace.node)
    layer = ComputeLayer(
        name=name,
        kind=trace.kind,
        in_width=trace.in_width,
        out_width=trace.out_width,
        in_groups=in_groups,
        in_repeat=in_repeat,
        out_group=out_group,
        kernel=trace.kernel,
        stride=trace.stride,
        padding=trace.padding,
        groups=trace.groups,
        depthwise=trace.groups > 1 and trace.groups == trace.in_width,
        whole_groups=_goes_by_groups(flow, grouping, trace),
        input_hw=trace.input_hw,
        output_hw=trace.output_hw,
        bias=trace.bias or norm,
        activation=activation,
        dilation=trace.dilation,
        in_fixed=trace.in_width - inner.total(),
        out_repeat=outer[out_group] // widths[out_group] if out_group is not None else 1,
        out_fixed=trace.out_width - outer.total(),
    )
    return layer, end


def _goes_by_groups(flow: Flow, grouping: Grouping, trace: LayerTrace) -> bool:
    """Tell whether the units of a grouped convolution's input are its groups, not channels in each of them."""
    if trace.groups in {1, trace.in_width} or trace.in_ids is None:
        return False
    numbers = flow.units.expand(trace.in_ids)
    first = np.where(grouping.number_of[numbers] >= 0, numbers, -1).max(1)
    return bool((first.reshape(trace.groups, -1) == first.reshape(trace.groups, -1)[:, :1]).all())


def _terms(entries: Counter[str], widths: dict[str, int]) -> tuple[tuple[str, ...], int]:
    """Return an input's groups and its entries a unit; a group that counts double is listed twice."""
    repeats = {group: count // widths[group] for group, count in entries.items()}
    common = math.gcd(*repeats.values()) or 1
    return tuple(group for group, each in repeats.items() for _ in range(each // common)), common


def _followers(node: fx.Node) -> tuple[bool, Literal["relu", "relu6"] | None, fx.Node]:
    """Tell whether a batch norm follows alone, and which activation follows it (or the layer) alone.

    The last node of all three is returned, too.
    """
    end, follower = node, _only_user(node)
    norm = follower is not None and str(follower.target) in _BATCH_NORMS
    if norm and follower is not None:
        end, follower = follower, _only_user(follower)
    activation = _activation(follower)
    return norm, activation, end if activation is None or follower is None else follower


def _only_user(node: fx.Node) -> fx.Node | None:
    users = list(node.users)
    return users[0] if len(users) == 1 else None


def _activation(node: fx.Node | None) -> Literal["relu", "relu6"] | None:
    if node is None:
        return None
    name = str(node.target).split(".")[1].rstrip("_") if "." in str(node.target) else ""
    if name == "hardtanh" and tuple(node.args[1:3]) == (0.0, 6.0):
        return "relu6"
    if name == "relu":
        return "relu"
    return "relu6" if name == "relu6" else None
