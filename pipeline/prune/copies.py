"""Copies of a model: whole ones, and twins that share its tensors."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pipeline.errors import ModelError

M = TypeVar("M", bound=nn.Module)
_ATOMS = (int, float, str, type(None), torch.dtype, torch.device, torch.Size)


def copied(model: M, replaced: Mapping[int, object] | None = None) -> M:
    """Return a deep copy of a model, with the given things in the place of those with these `id`s.

    Raises:
        ModelError: the model holds something that cannot be copied.
    """
    memo = {**_computed(model), **(replaced or {})}
    try:
        return _copied_by_hand(model, memo) if _is_plain(model) else copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(
            f"{type(model).__name__} cannot be copied: {error}",
            hint="modules must not hold tensors that are results of a computation, open files or locks",
        ) from error


def _is_plain(model: nn.Module) -> bool:
    """Tell whether all modules leave it to Python how they are copied."""
    return not any(_has_a_say(kind) for kind in {type(module) for module in model.modules()})


def _has_a_say(kind: type[nn.Module]) -> bool:
    names = ("__deepcopy__", "__copy__", "__reduce__", "__reduce_ex__", "__getstate__", "__slots__")
    bases = [base for base in kind.__mro__ if base not in {nn.Module, object}]
    return any(name in vars(base) for base in bases for name in names)


def _copied_by_hand(model: M, memo: dict[int, object]) -> M:
    """Do what `copy.deepcopy` would, without looking into every number and string: several times as fast."""
    modules = [module for module in model.modules() if id(module) not in memo]
    for module in modules:
        memo[id(module)] = module.__class__.__new__(module.__class__)
    for module in modules:
        vars(memo[id(module)]).update(
            {
                name: {} if _is_cache(name, value) else _copied_value(value, memo)
                for name, value in vars(module).items()
            }
        )
    result: M = memo[id(model)]  # type: ignore[assignment]
    return result


def _is_cache(name: str, value: object) -> bool:
    """Tell whether an attribute keeps results of earlier runs, which are those of the full width."""
    return (
        "cache" in name and type(value) is dict and all(isinstance(each, Tensor) for each in value.values())
    )


def _copied_value(value: Any, memo: dict[int, object]) -> Any:
    if isinstance(value, _ATOMS):
        return value
    if type(value) in {dict, OrderedDict}:
        return type(value)((name, _copied_value(each, memo)) for name, each in value.items())
    if type(value) in {tuple, set} and all(isinstance(each, _ATOMS) for each in value):
        return type(value)(value)
    return memo[id(value)] if id(value) in memo else copy.deepcopy(value, memo)


def twin(model: M) -> M:
    """Return a copy of a model's modules that shares its parameters and buffers.

    Raises:
        ModelError: the model holds something that cannot be copied.
    """
    return copied(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _computed(model: nn.Module) -> dict[int, Tensor]:
    """Return weights that hooks of `torch.nn.utils` computed (and compute anew before each run), without history."""
    found = {}
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():  # noqa: SLF001 (there is no other way to see them)
            if isinstance(hook, WeightNorm | SpectralNorm):
                weight = getattr(module, hook.name)
                found[id(weight)] = weight.detach()
    return found
