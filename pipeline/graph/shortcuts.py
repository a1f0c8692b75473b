"""Shortcuts without weights in an exported program: every n-th pixel, and channels of zeros.

Residual networks for CIFAR widen their shortcuts so (He et al. 2016, section 3.3, option A).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, Node

_SLICE = torch.ops.aten.slice.Tensor
_PADS = (torch.ops.aten.pad.default, torch.ops.aten.constant_pad_nd.default)
_AS_PADS_ZEROS = ("constant", 0, None)  # what may stand behind a pad's sides
_WHOLE = (0, 0, None, 1)  # what a slice's dimension, start, end and step are where they are not given
_DIMENSIONS = 4  # (N, C, H, W)


@dataclass(frozen=True)
class PaddedShortcut:
    """From `source` to `pad`: every `stride`-th (row, column), channels of zeros `before` and `after`."""

    source: Node
    pad: Node
    stride: tuple[int, int]
    before: int
    after: int


def padded_shortcuts(graph: Graph) -> list[PaddedShortcut]:
    """Return all of them, in the program's order."""
    found = (_shortcut(node) for node in graph.nodes if node.target in _PADS)
    return [shortcut for shortcut in found if shortcut is not None]


def _shortcut(pad: Node) -> PaddedShortcut | None:
    """Return the shortcut that ends with `pad`, if one does."""
    padded, stride = _padded_channels(pad), [1] * _DIMENSIONS
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
    return PaddedShortcut(node, pad, (rows, columns), *padded)


def _padded_channels(pad: Node) -> tuple[int, int] | None:
    """Return how many channels of zeros `pad` puts before and after an image's; None where it does anything else."""
    sides: Any = pad.args[1]
    others = (*pad.args[2:], *pad.kwargs.values())
    if pad.meta["val"].ndim != _DIMENSIONS or any(each not in _AS_PADS_ZEROS for each in others):
        return None
    pixels, channels = sides[:4], sides[4:6]
    if any(pixels) or len(sides) != 6 or min(channels) < 0:
        return None
    return channels[0], channels[1]
