"""Apply a slimming plan: a new, smaller module of the same classes; the given one is never touched."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.prune.plan import SlimmingPlan, index_fault, is_within, model_digest

M = TypeVar("M", bound=nn.Module)


def slim(model: M, plan: SlimmingPlan) -> M:
    """Return a smaller copy of `model`; modes, dtypes, devices, hooks, `requires_grad` and ties are kept.

    A dropped block becomes an `nn.Identity`, so its keys are missing from the state dict.

    All or nothing: the plan is checked before anything is made. Gradients are not carried over.

    Raises:
        ModelError: the plan is of another model, or an entry of it is wrong; the message says where.
    """
    _check(model, plan)
    smaller = copied(model)
    tensors = _tensors(smaller)
    done: set[int] = set()
    for name, dims in plan.slices.items():
        tensor = tensors[name]
        if id(tensor) in done:  # a plan names tied tensors once; a hand-made one may do so twice
            raise ModelError(f"the plan slices {name} twice, under another name as well")
        done.add(id(tensor))
        _shrink(tensor, dims)
    for name in plan.dropped:
        replace_module(smaller, name, nn.Identity().train(smaller.get_submodule(name).training))
    for module in smaller.modules():
        _tell_truth(module)
    return smaller


def copied(model: M) -> M:
    """Return a deep copy of a model.

    Raises:
        ModelError: the model holds something that cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be copied: {error}",
            hint="modules must not hold tensors that are results of a computation, open files or locks",
        ) from error


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put `module` in the place of the submodule `name`."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _check(model: nn.Module, plan: SlimmingPlan) -> None:
    tensors = _tensors(model)
    hint = f"trace this {type(model).__name__} and make the plan from its graph"
    _check_dropped(model, plan, hint)
    for name, (_, after) in plan.widths.items():
        if after < 1 and not any(is_within(name, block) for block in plan.dropped):
            raise ModelError(f"the plan leaves nothing of group {name}", hint="at least one unit must stay")
    for name, dims in plan.slices.items():
        if name not in tensors:
            raise ModelError(f"the plan is of another model: there is no parameter {name}", hint=hint)
        for dim, kept in dims.items():
            if not 0 <= dim < tensors[name].ndim:
                raise ModelError(f"the plan is of another model: {name} has no dimension {dim}", hint=hint)
            fault = index_fault(kept, tensors[name].shape[dim])
            if fault:
                raise ModelError(f"the plan does not fit {name}, dimension {dim}: {fault}", hint=hint)
    if model_digest(model) != plan.model_digest:
        raise ModelError(
            f"the plan is of another model: {type(model).__name__} has other modules or shapes", hint=hint
        )


def _check_dropped(model: nn.Module, plan: SlimmingPlan, hint: str) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    for number, name in enumerate(plan.dropped):
        if not name or name not in modules:
            raise ModelError(f"the plan is of another model: there is no module {name!r} to drop", hint=hint)
        others = (*plan.dropped[:number], *plan.dropped[number + 1 :])
        if any(is_within(name, other) for other in others):
            raise ModelError(f"the plan drops {name} twice, or within another block", hint=hint)


def _shrink(tensor: Tensor, dims: dict[int, tuple[int, ...]]) -> None:
    """Slice in place, so that every module, tie and hook that holds this tensor sees the smaller one."""
    data = tensor.detach()
    for dim, kept in dims.items():
        data = data.index_select(dim, torch.tensor(kept, device=data.device))
    tensor.data = data


def _tell_truth(module: nn.Module) -> None:
    """Make the attributes that repeat a parameter's shape agree with it."""
    if isinstance(module, nn.Conv2d):
        _tell_conv(module)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
        vector = module.weight if module.weight is not None else module.running_mean
        if vector is not None:
            module.num_features = vector.shape[0]


def _tell_conv(conv: nn.Conv2d) -> None:
    """A depthwise layer keeps its outputs a channel, a grouped one its number of groups."""
    out_channels, in_per_group = conv.weight.shape[:2]
    if conv.groups > 1 and conv.groups == conv.in_channels:
        conv.groups = out_channels // (conv.out_channels // conv.in_channels)
    conv.in_channels = in_per_group * conv.groups
    conv.out_channels = out_channels
