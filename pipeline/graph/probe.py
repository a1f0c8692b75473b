"""Try every group: a width written into the model's own Python code is found out here, not later.

A slimmed model must run, and give what the whole model gives when the dropped channels' entries in every
consumer are zero. That holds exactly for every operator that has a rule.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pipeline.graph.groups import PruningGroup
from pipeline.prune.plan import make_plan
from pipeline.prune.slim import slim

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
COARSE_TOLERANCE = 5e-2  # of the largest output, for half precision


def probe(
    model: nn.Module, groups: tuple[PruningGroup, ...], digest: str, inputs: tuple[Tensor, ...]
) -> dict[str, str]:
    """Return the reason for every group that the model's own code keeps from being slimmed.

    All groups are slimmed at once first; only if that fails are they tried one after the other, each on top
    of those that passed. `model` is in eval mode and stays as it is.
    """
    keep = {group.name: _about_half(group.width) for group in groups}
    noisy = tuple(lively(one) for one in inputs)

    def attempt(tried: list[PruningGroup]) -> str | None:
        chosen = {group.name: keep[group.name] for group in tried}
        try:
            expected = outputs_of(_without(model, tried, chosen), noisy)
            outputs = outputs_of(slim(model, make_plan(groups, digest, chosen)), noisy)
        except Exception as error:  # noqa: BLE001 (the user's forward may raise anything)
            return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return _difference(outputs, expected)

    return {} if attempt(list(groups)) is None else _one_by_one(groups, attempt)


def _one_by_one(
    groups: tuple[PruningGroup, ...], attempt: Callable[[list[PruningGroup]], str | None]
) -> dict[str, str]:
    passed: list[PruningGroup] = []
    refused = {}
    for group in groups:
        fault = attempt([*passed, group])
        if fault is None:
            passed.append(group)
        else:
            refused[group.name] = f"the model's own code fixes its width {group.width} ({fault})"
    return refused


def _about_half(width: int) -> list[int]:
    """Return scattered units to keep, the same ones every time.

    They are odd in number, so that a factor written into a reshape does not happen to fit.
    """
    order = torch.randperm(width, generator=torch.Generator().manual_seed(width))
    return sorted(order[: min(width - 1, width // 2 | 1)].tolist())


def lively(given: Tensor) -> Tensor:
    """Replace a constant input, which would hide differences, by noise from 0 to 1."""
    if not given.is_floating_point() or (given != given.flatten()[:1]).any():
        return given
    noise = torch.rand(given.shape, generator=torch.Generator().manual_seed(0))
    return noise.to(given.device, given.dtype)


def _without(model: nn.Module, groups: list[PruningGroup], keep: Mapping[str, list[int]]) -> nn.Module:
    """Return a copy of full width in which no layer looks at the dropped units."""
    whole = copy.deepcopy(model)
    tensors = dict(whole.named_parameters()) | dict(whole.named_buffers())
    for group in groups:
        dropped = sorted(set(range(group.width)) - set(keep[group.name]))
        for member in group.members:
            if member.role == "in":
                gone = torch.tensor([index for unit in dropped for index in member.indices[unit]])
                weight = tensors[member.parameter].detach()
                weight.index_fill_(member.dim, gone.to(weight.device), 0.0)
    return whole


def outputs_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """Return all tensors that the model gives."""
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]


def _difference(outputs: list[Tensor], expected: list[Tensor]) -> str | None:
    if [one.shape for one in outputs] != [one.shape for one in expected]:
        return "the output changes its shape"
    for one, other in zip(outputs, expected, strict=True):
        scale = float(other.abs().max()) if other.numel() else 0.0
        share = TOLERANCE.get(other.dtype, COARSE_TOLERANCE)
        if not torch.allclose(one, other, rtol=0.0, atol=share * scale, equal_nan=True):
            return "other channels than the chosen ones stay in use"
    return None
