"""Sums over the entries of a parameter that belong to one unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pipeline.graph.groups import Member


def sum_by_unit(along: Tensor, member: Member) -> Tensor:
    """Sum what every entry along the member's dimension has over each unit's entries; shape (width,)."""
    return along[torch.from_numpy(member.indices)].sum(1)


def along_member(entries: Tensor, member: Member) -> Tensor:
    """Sum a tensor of the parameter's shape over all other dimensions; shape (size,), on the CPU."""
    others = [dim for dim in range(entries.ndim) if dim != member.dim]
    return (entries.sum(others) if others else entries).cpu()
