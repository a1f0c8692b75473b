"""Which widths a search may choose, and which single layers have to be timed for that.

A latency table is made of layer shapes. A layer's input width follows from the groups in front of it and
its output width from the group it produces, so a layer between two groups has one shape for each pair of
their candidate widths. After a concatenation the input width is a sum over several groups: that would need
a shape for each combination, and costs of three and more groups at once, which a linear problem over pairs
cannot express. Such a layer is timed at the narrowest and the full input only; in between its cost is a
straight line in the input width (see `costs.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from pipeline.graph.groups import ComputeLayer, DependencyGraph

LARGEST_TILE = 16
SMALLEST_SHARE = 8  # no group becomes narrower than its width divided by this


@dataclass(frozen=True)
class LayerShape:
    """One layer at given widths: all that its running time depends on.

    Widths count the entries of the layer's own input and output dimension; sizes are (height, width) of its
    input without padding, batch 1. `kind` is "conv2d", "linear", "empty" for the call that computes
    nothing, or "gone" for a layer that went with its block.
    """

    kind: str
    in_width: int
    out_width: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    input_hw: tuple[int, int] = (1, 1)
    bias: bool = True
    activation: str | None = None

    @property
    def key(self) -> str:
        """The shape as one line of text; different shapes have different keys."""
        if self.kind == "empty":
            return "empty"
        pairs = "".join(
            f" {letter}{first}x{second}"
            for letter, (first, second) in zip(
                "kspdi", (self.kernel, self.stride, self.padding, self.dilation, self.input_hw), strict=True
            )
        )
        tail = f"{' bias' if self.bias else ''}{' ' + self.activation if self.activation else ''}"
        return f"{self.kind} {self.in_width}>{self.out_width}{pairs} g{self.groups}{tail}"

    @property
    def output_hw(self) -> tuple[int, int]:
        """(height, width) of the output."""
        high, wide = (
            (size + 2 * pad - reach) // step + 1
            for size, pad, reach, step in zip(
                self.input_hw, self.padding, self.reach, self.stride, strict=True
            )
        )
        return high, wide

    @property
    def reach(self) -> tuple[int, int]:
        """(rows, columns) of the input that one output value sees: the kernel, spread by its dilation."""
        tall, wide = ((size - 1) * step + 1 for size, step in zip(self.kernel, self.dilation, strict=True))
        return tall, wide

    @property
    def weight_count(self) -> int:
        """Number of weights and biases."""
        if self.kind in {"empty", "gone"}:
            return 0
        area = math.prod(self.kernel)
        return self.out_width * (self.in_width // self.groups) * area + self.out_width * self.bias


@dataclass(frozen=True)
class PairShape:
    """Two layers in one model: the second takes what the first gives."""

    first: LayerShape
    second: LayerShape

    @property
    def key(self) -> str:
        """The pair as one line of text."""
        return f"{self.first.key} + {self.second.key}"


Shape = TypeVar("Shape", LayerShape, PairShape)  # one or the other
EMPTY = LayerShape("empty", 1, 1)
GONE = LayerShape("gone", 0, 0)  # a layer of a dropped block: no time, no weights


def candidate_widths(graph: DependencyGraph, divisions: int = 8) -> dict[str, tuple[int, ...]]:
    """Return the widths each group may have: about `divisions` of them, ascending, the full width last.

    A group whose block can go as a whole may also have width 0. A group that layers depend on but that is not
    choosable has its full width alone.
    """
    droppable = {block.group for block in graph.blocks if block.group is not None}
    used = {name for layer in graph.layers for name in neighbours(layer)}
    widths = {}
    for group in graph.groups:
        if group.name in graph.choosable:
            gone = (0,) if group.name in droppable else ()
            widths[group.name] = (*gone, *width_grid(group.width, divisions))
        elif group.name in used:
            widths[group.name] = (group.width,)
    return widths


def width_grid(width: int, divisions: int = 8) -> tuple[int, ...]:
    """Return about `divisions` widths up to `width`, evenly spaced.

    The spacing is a multiple of the largest power of two (at most 16) that fits it, since the kernels of
    all runtimes work in tiles of 2 to 16 channels. The narrowest is at least an eighth of `width`.

    >>> width_grid(32)
    (4, 8, 12, 16, 20, 24, 28, 32)
    """
    wanted = max(1.0, width / divisions)
    tile = min(LARGEST_TILE, 2 ** int(math.log2(wanted)))
    step = max(1, round(wanted / tile)) * tile
    smallest = math.ceil(width / SMALLEST_SHARE)
    return (*(entry for entry in range(step, width, step) if entry >= smallest), width)


def shape_at(layer: ComputeLayer, kept: Mapping[str, int]) -> LayerShape:
    """Return the shape of `layer` when the groups have the widths `kept` (units), `GONE` with its block."""
    if layer.is_gone(kept):
        return GONE
    inner, _ = layer.widths(kept)
    return sized(layer, inner, None if layer.out_group is None else kept[layer.out_group])


def sized(layer: ComputeLayer, in_width: int, out: int | None) -> LayerShape:
    """Return the shape of `layer` with `in_width` input entries and `out` kept units of its output group.

    A depthwise layer's output follows its input, so there `out` is not looked at.
    """
    out_width = layer.out_fixed + layer.out_repeat * (out or 0)
    if layer.depthwise:
        out_width = layer.out_width // layer.in_width * in_width
    groups = (
        layer.groups * in_width // layer.in_width if layer.depthwise or layer.whole_groups else layer.groups
    )
    return LayerShape(
        kind=layer.kind,
        in_width=in_width,
        out_width=out_width,
        kernel=layer.kernel,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=groups,
        input_hw=layer.input_hw,
        bias=layer.bias,
        activation=layer.activation,
    )


def joins(layer: ComputeLayer) -> bool:
    """Tell whether the layer's input comes from several groups, so that its cost is interpolated."""
    return len(set(layer.in_groups)) > 1


def input_range(layer: ComputeLayer, widths: Mapping[str, tuple[int, ...]]) -> tuple[int, int]:
    """Return the narrowest and the full input width of a layer behind several groups."""
    narrow, wide = (layer.widths({name: each[end] for name, each in widths.items()})[0] for end in (0, -1))
    return narrow, wide


def table_shapes(graph: DependencyGraph, widths: Mapping[str, tuple[int, ...]]) -> tuple[LayerShape, ...]:
    """Return every shape that a table for `widths` must hold, once, by first use, without `EMPTY`."""
    shapes = (shape for layer in graph.layers for shape in _layer_shapes(layer, widths))
    return tuple(dict.fromkeys(shape for shape in shapes if shape != GONE))


def _layer_shapes(layer: ComputeLayer, widths: Mapping[str, tuple[int, ...]]) -> Iterator[LayerShape]:
    if joins(layer):
        outs = (None,) if layer.out_group is None else widths[layer.out_group]
        for in_width, out in product(input_range(layer, widths), outs):
            yield sized(layer, in_width, out)
        return
    names = neighbours(layer)
    for chosen in product(*(widths[name] for name in names)):
        yield shape_at(layer, dict(zip(names, chosen, strict=True)))


def neighbours(layer: ComputeLayer) -> tuple[str, ...]:
    """Return the groups that the layer's shape depends on, each once, those in front first, its block's last."""
    names = (*layer.in_groups, layer.out_group, layer.only_with)
    return tuple(dict.fromkeys(name for name in names if name is not None))
