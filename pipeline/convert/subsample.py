"""A shortcut that takes every n-th pixel and pads channels, written as the one convolution that it equals.

Residual networks for CIFAR widen their shortcuts without weights (He et al. 2016, section 3.3, option A): a strided
slice along both sides, then channels of zeros. Runtimes have no quick kernel for either, and a slice in the middle
breaks the layout, or the part of the graph, that their convolutions work in. A convolution of 1 x 1 with that stride,
whose weights are 1 from each channel to its place and else 0, gives the same finite numbers (docs/converting.md says
what it saves).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

_SLICE = torch.ops.aten.slice.Tensor
_PADS = (torch.ops.aten.pad.default, torch.ops.aten.constant_pad_nd.default)
_AS_PADS_ZEROS = ("constant", 0, None)  # what may stand behind a pad's sides
_WHOLE = (0, 0, None, 1)  # what a slice's dimension, start, end and step are where they are not given
_CHANNELS_AND_SIDES = 4  # (N, C, H, W)


@dataclass(frozen=True)
class _Shortcut:
    """From `source` to `pad`: every `stride`-th (row, column), channels of zeros `before` and `after`."""

    source: Node
    pad: Node
    stride: tuple[int, int]
    before: int
    after: int

    def weight(self) -> Tensor:
        """Return the convolution's weights: (channels out, channels in, 1, 1)."""
        channels = self.source.meta["val"].shape[1]
        weight = torch.zeros(self.before + channels + self.after, channels, 1, 1)
        weight[self.before : self.before + channels, :, 0, 0] = torch.eye(channels)
        return weight


def with_convolved_shortcuts(program: ExportedProgram) -> ExportedProgram:
    """Return the program with such shortcuts as convolutions; the very same one where there is none."""
    if not _shortcuts(program.graph):
        return program
    module: Any = program.module()
    for number, shortcut in zip(count(), _shortcuts(module.graph), strict=False):
        _replace(module, shortcut, f"shortcut_{number}")
    module.graph.eliminate_dead_code()
    module.recompile()
    return torch.export.export(module, *program.example_inputs, strict=False)


def _replace(module: GraphModule, shortcut: _Shortcut, name: str) -> None:
    module.register_buffer(name, shortcut.weight())
    with module.graph.inserting_before(shortcut.pad):
        weight = module.graph.get_attr(name)
        made = module.graph.call_function(
            torch.ops.aten.conv2d.default, (shortcut.source, weight, None, list(shortcut.stride))
        )
    shortcut.pad.replace_all_uses_with(made)


def _shortcuts(graph: Graph) -> list[_Shortcut]:
    found = (_shortcut(node) for node in graph.nodes if node.target in _PADS)
    return [shortcut for shortcut in found if shortcut is not None]


def _shortcut(pad: Node) -> _Shortcut | None:
    """Return the shortcut that ends with `pad`, if one does."""
    padded, stride = _padded_channels(pad), [1] * _CHANNELS_AND_SIDES
    node: Any = pad.args[0]
    while node.target is _SLICE:
        given: tuple[Any, ...] = node.args[1:]
        dimension, start, end, step = given + _WHOLE[len(given) :]
        node = node.args[0]
        if start or (end is not None and end < node.meta["val"].shape[dimension]):
            return None
        stride[dimension] *= step
    batch, channels, rows, columns = stride
    if padded is None or batch * channels != 1 or rows * columns == 1:
        return None
    return _Shortcut(node, pad, (rows, columns), *padded)


def _padded_channels(pad: Node) -> tuple[int, int] | None:
    """Return how many channels of zeros `pad` puts before and after an image's; None where it does anything else."""
    sides: Any = pad.args[1]
    others = (*pad.args[2:], *pad.kwargs.values())
    if pad.meta["val"].ndim != _CHANNELS_AND_SIDES or any(each not in _AS_PADS_ZEROS for each in others):
        return None
    right_left_low_high, channels = sides[:4], sides[4:6]
    if any(right_left_low_high) or len(sides) != 6 or min(channels) < 0:
        return None
    return channels[0], channels[1]
