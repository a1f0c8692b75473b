"""Sums over the entries of a parameter that belong to one unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pipeline.graph.groups import Member


def sum_by_unit(entries: Tensor, member: Member) -> Tensor:
    """Sum a tensor of the parameter's shape over each unit's entries; shape (width,), on the CPU."""
    others = [dim for dim in range(entries.ndim) if dim != member.dim]
    along = (entries.sum(others) if others else entries).cpu()
    return along[torch.tensor(member.indices)].sum(1)
