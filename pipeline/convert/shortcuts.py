"""A shortcut that takes every n-th pixel and pads channels, written as the one convolution that it equals.

Runtimes have no quick kernel for a strided slice, and one in the middle breaks the layout, or the part of the graph,
that their convolutions work in. A convolution of 1 x 1 with that stride, whose weights are 1 from each channel to its
place and else 0, gives the same finite numbers (docs/converting.md says what it saves).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule

from pipeline.graph.shortcuts import PaddedShortcut, padded_shortcuts


def with_convolved_shortcuts(program: ExportedProgram) -> ExportedProgram:
    """Return the program with such shortcuts as convolutions; the very same one where there is none."""
    if not padded_shortcuts(program.graph):
        return program
    module: Any = program.module()
    for number, shortcut in enumerate(padded_shortcuts(module.graph)):
        _replace(module, shortcut, f"shortcut_{number}")
    module.graph.eliminate_dead_code()
    module.recompile()
    return torch.export.export(module, *program.example_inputs, strict=False)


def _replace(module: GraphModule, shortcut: PaddedShortcut, name: str) -> None:
    module.register_buffer(name, _weight(shortcut))
    with module.graph.inserting_before(shortcut.pad):
        weight = module.graph.get_attr(name)
        made = module.graph.call_function(
            torch.ops.aten.conv2d.default, (shortcut.source, weight, None, list(shortcut.stride))
        )
    shortcut.pad.replace_all_uses_with(made)


def _weight(shortcut: PaddedShortcut) -> Tensor:
    """Return the convolution's weights: (channels out, channels in, 1, 1)."""
    channels, before = shortcut.source.meta["val"].shape[1], shortcut.before
    weight = torch.zeros(before + channels + shortcut.after, channels, 1, 1)
    weight[before : before + channels, :, 0, 0] = torch.eye(channels)
    return weight
