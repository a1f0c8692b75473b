"""Norms of the weights that go with a unit (Li et al. 2017, "Pruning Filters for Efficient ConvNets")."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from pipeline.prune.criteria.slices import sum_by_unit

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
        scores = {}
        for group in graph.groups:
            total = torch.zeros(group.width, dtype=torch.float64)
            for member in group.members:
                if member.parameter in parameters:
                    weights = parameters[member.parameter].detach().abs().double()
                    total += sum_by_unit(weights**self.order, member)
            scores[group.name] = total ** (1 / self.order)
        return scores
