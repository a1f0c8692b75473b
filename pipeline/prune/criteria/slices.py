"""Sums over the entries of a parameter that belong to one unit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

if TYPE_CHECKING:
    from pipeline.graph.groups import Member

Sums = npt.NDArray[np.float64]


def sum_by_unit(along: Sums, member: Member) -> Sums:
    """Sum what every entry along the member's dimension has over each unit's entries; shape (width,)."""
    return np.asarray(along[member.indices].sum(1))


def along_member(entries: Tensor, member: Member) -> Sums:
    """Sum a tensor of the parameter's shape over all other dimensions; shape (size,)."""
    others = [dim for dim in range(entries.ndim) if dim != member.dim]
    return (entries.sum(others) if others else entries).double().cpu().numpy()
