"""Copies: of a model, whole or sharing its tensors, and of what is left of a tensor."""

from __future__ import annotations

import copy
import gc
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from pipeline.errors import ModelError

M = TypeVar("M", bound=nn.Module)
_ATOMS = {int, float, bool, str, type(None), torch.dtype, torch.device, torch.Size}
_CONTAINERS = {dict, OrderedDict, list, set}


def copied(model: M, replaced: Mapping[int, object] | None = None) -> M:
    """Return a deep copy of a model, with the given things in the place of those with these `id`s.

    Raises:
        ModelError: the model holds something that cannot be copied.
    """
    memo = {**_computed(model), **(replaced or {})}
    try:
        with no_collection():
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
        attributes = vars(memo[id(module)])
        for name, value in vars(module).items():
            attributes[name] = value if type(value) in _ATOMS else _copied_value(name, value, memo)
    result: M = memo[id(model)]  # type: ignore[assignment]
    return result


def _copied_value(name: str, value: Any, memo: dict[int, object]) -> Any:
    kind = type(value)
    if kind in _ATOMS:
        return value
    if kind in _CONTAINERS and not value:
        return kind()
    if kind is dict and _is_cache(name, value):
        return {}
    if kind in {dict, OrderedDict}:
        return kind((key, _copied_value(name, each, memo)) for key, each in value.items())
    if kind in {tuple, set} and all(type(each) in _ATOMS for each in value):
        return kind(value)
    return memo[id(value)] if id(value) in memo else copy.deepcopy(value, memo)


def _is_cache(name: str, value: Mapping[Any, object]) -> bool:
    """Tell whether an attribute keeps results of earlier runs, which are those of the full width."""
    return "cache" in name and all(isinstance(each, Tensor) for each in value.values())


@contextmanager
def no_collection() -> Iterator[None]:
    """Let Python not look for garbage for a while: many small things are made, nearly all of which stay."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def sliced(tensor: Tensor, dims: Mapping[int, Sequence[int]]) -> Tensor:
    """Return a copy of the entries of a tensor that are kept along each of these dimensions; a parameter stays one."""
    data = tensor.detach()
    for dim, kept in dims.items():
        data = data.index_select(dim, torch.as_tensor(kept, device=data.device))
    data = data if dims else data.clone()
    if not isinstance(tensor, nn.Parameter):
        return data
    parameter = nn.Parameter(data, requires_grad=tensor.requires_grad)
    parameter.__dict__.update(tensor.__dict__)
    return parameter


def twin(model: M) -> M:
    """Return a copy of a model's modules that shares its parameters and buffers.

    Raises:
        ModelError: the model holds something that cannot be copied.
    """
    return copied(model, {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())})


def _computed(model: nn.Module) -> dict[int, Tensor]:
    """Return weights that hooks of `torch.nn.utils` computed (and compute anew before each run), without history."""
    weights = (getattr(module, hook.name) for module, hook in _weight_hooks(model))
    return {id(weight): weight.detach() for weight in weights}


def recompute_weights(model: nn.Module) -> None:
    """Compute such weights anew, from what their parameters are now."""
    with torch.no_grad():
        for module, hook in _weight_hooks(model):
            given = (
                (module,) if isinstance(hook, WeightNorm) else (module, False)
            )  # no step of power iteration
            setattr(module, hook.name, hook.compute_weight(*given))


def _weight_hooks(model: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    for module in model.modules():
        for hook in module._forward_pre_hooks.values():  # noqa: SLF001 (there is no other way to see them)
            if isinstance(hook, WeightNorm | SpectralNorm):
                yield module, hook
