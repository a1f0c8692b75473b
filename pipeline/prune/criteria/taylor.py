"""First-order Taylor importance (Molchanov et al. 2019, "Importance Estimation for Neural Network Pruning").

The paper puts a gate z = 1 on a unit's activation and takes (∂E/∂z)², which for a set of weights that
together make the gate is the group contribution (Σ g·w)². Here the gates sit where a unit is consumed: a
consumer is linear in its input, so Σ g·w over the unit's slice of its weight *is* ∂E/∂z of a gate on that
input. All consumers of a unit are summed before squaring. So only members with role "in" count: producers,
biases and normalisation in front of the same activation would count the same change again. What a unit does
through the ratio of its own scale and shift, or through an activation function, is in there exactly as the
consumers see it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ModelError
from pipeline.prune.criteria.slices import along_member, sum_by_unit

if TYPE_CHECKING:
    from pipeline.graph.groups import DependencyGraph


@dataclass(frozen=True)
class Taylor:
    """Squared first-order change of the cross entropy when a unit is taken out, averaged over batches.

    The change that a set of units makes is estimated by the sum of theirs, so scores may be added up. A
    copy of the model runs in eval mode: normalisation uses its running statistics, and the result does not
    depend on chance.
    """

    needs_data: bool = True

    def __call__(
        self, model: nn.Module, graph: DependencyGraph, batches: Iterable[tuple[Tensor, Tensor]] | None
    ) -> dict[str, Tensor]:
        """Score by the gradients on all `batches`, each an (inputs, targets) pair.

        Raises:
            ModelError: there are no batches, or the loss on one is not a finite number.
        """
        work = copy.deepcopy(model).eval()
        weights = _consumer_weights(work, graph)
        scores = {group.name: torch.zeros(group.width, dtype=torch.float64) for group in graph.groups}
        count = 0
        for inputs, targets in batches or ():
            products = _gradient_times_weight(work, weights, inputs, targets)
            for name, change in _changes(graph, products).items():
                scores[name] += change**2
            count += 1
        if not count:
            raise ModelError(
                "importance 'taylor' got no batches", hint="give at least one (inputs, targets) pair"
            )
        return {name: total / count for name, total in scores.items()}


def _consumer_weights(model: nn.Module, graph: DependencyGraph) -> dict[str, nn.Parameter]:
    """Return the parameters whose gradients count, and ask for no others."""
    wanted = {member.parameter for group in graph.groups for member in group.members if member.role == "in"}
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        parameter.requires_grad_(name in wanted)
    return {name: parameter for name, parameter in parameters.items() if name in wanted}


def _gradient_times_weight(
    model: nn.Module, weights: dict[str, nn.Parameter], inputs: Tensor, targets: Tensor
) -> dict[str, Tensor]:
    if not weights:
        return {}
    with torch.enable_grad():
        loss = functional.cross_entropy(model(inputs), targets)
        gradients = torch.autograd.grad(loss, list(weights.values()))
    if not torch.isfinite(loss):
        raise ModelError("the loss is not a finite number on the data given", hint="check inputs and weights")
    pairs = zip(weights.items(), gradients, strict=True)
    return {name: (gradient * weight.detach()).double() for (name, weight), gradient in pairs}


def _changes(graph: DependencyGraph, products: dict[str, Tensor]) -> dict[str, Tensor]:
    changes = {}
    for group in graph.groups:
        total = torch.zeros(group.width, dtype=torch.float64)
        for member in group.members:
            if member.role == "in":
                total += torch.from_numpy(
                    sum_by_unit(along_member(products[member.parameter], member), member)
                )
        changes[group.name] = total
    return changes
