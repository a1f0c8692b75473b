"""Which groups a search may choose widths for: those that leave the model one of its own classes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from pipeline.graph.groups import FrozenDimension

if TYPE_CHECKING:
    from pipeline.graph import DependencyGraph

_PARTED = "different parts of the outputs of one layer are used differently"


def searchable(graph: DependencyGraph) -> DependencyGraph:
    """Return the graph with no other groups choosable, and the others named among what is frozen.

    All groups are tried at once first, at about half their widths; only if the model's code cannot follow are
    they tried one after the other, each on top of those that passed. Then the blocks, which must be droppable.
    """
    keep = {group.name: _about_half(group.width) for group in graph.groups if group.name in graph.choosable}
    parted = [group for group in graph.groups if group.within is None and group.name not in keep]
    frozen = [FrozenDimension(group.name, _PARTED) for group in parted]
    if not _is_module(graph, keep):
        passed: dict[str, list[int]] = {}
        for name, units in keep.items():
            if _is_module(graph, {**passed, name: units}):
                passed[name] = units
            else:
                width = graph.group(name).width
                frozen.append(FrozenDimension(name, f"the model's own code fixes its width {width}"))
        keep = passed
    blocks = tuple(
        block if block.group in keep and _is_module(graph, {}, (block.name,)) else replace(block, group=None)
        for block in graph.blocks
    )
    return replace(graph, choosable=tuple(keep), blocks=blocks, frozen=(*graph.frozen, *frozen))


def _is_module(graph: DependencyGraph, keep: dict[str, list[int]], drop: tuple[str, ...] = ()) -> bool:
    return graph.plan(keep, drop).form == "module"


def _about_half(width: int) -> list[int]:
    """Return scattered units to keep, the same ones every time.

    They are odd in number, so that a factor written into a reshape does not happen to fit.
    """
    order = torch.randperm(width, generator=torch.Generator().manual_seed(width))
    return sorted(order[: min(width - 1, width // 2 | 1)].tolist())
