"""Norms of the weights that go with a unit (Li et al. 2017, "Pruning Filters for Efficient ConvNets")."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.prune.criteria.slices import Sums, sum_by_unit

if TYPE_CHECKING:
    from pipeline.graph.groups import DependencyGraph


@dataclass(frozen=True)
class Magnitude:
    """The l1 or l2 norm over all parameters of a unit: filters, normalisation and consumers alike.

    Running statistics are no parameters and do not count.
    """

    order: int
    needs_data: bool = False

    def __call__(
        self, model: nn.Module, graph: DependencyGraph, batches: Iterable[tuple[Tensor, Tensor]] | None
    ) -> dict[str, Tensor]:
        """Score by the weights alone; `batches` is not looked at."""
        del batches
        parameters = dict(model.named_parameters())
        sums: dict[tuple[str, int], Sums] = {}  # several groups may hold parts of one dimension
        scores = {}
        for group in graph.groups:
            total = np.zeros(group.width)
            for member in group.members:
                if member.parameter in parameters:
                    place = (member.parameter, member.dim)
                    if place not in sums:
                        sums[place] = _powers(parameters[member.parameter].detach(), member.dim, self.order)
                    total += sum_by_unit(sums[place], member)
            scores[group.name] = torch.from_numpy(total ** (1 / self.order))
        return scores


def _powers(weights: Tensor, dim: int, order: int) -> Sums:
    """Return the sum of |w|^order over all other dimensions; shape (size of `dim`,)."""
    sizes = weights.abs() if weights.dtype in {torch.float32, torch.float64} else weights.abs().float()
    powers = sizes if order == 1 else sizes**order
    if dim:  # in two steps: this is several times as fast as all at once
        powers = powers.sum(list(range(dim)))
    rest = powers.sum(list(range(1, powers.ndim))) if powers.ndim > 1 else powers
    return np.asarray(rest.double().cpu().numpy())
