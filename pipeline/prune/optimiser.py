"""An optimiser's state that follows the surviving channels, so that training goes on where it was."""

from __future__ import annotations

from typing import Any, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from pipeline.errors import ModelError
from pipeline.prune.copies import sliced
from pipeline.prune.plan import SlimmingPlan

O = TypeVar("O", bound=Optimizer)  # noqa: E741


def remap_optimiser(optimiser: O, model: nn.Module, slimmed: nn.Module, plan: SlimmingPlan) -> O:
    """Return an optimiser of the same class for the slimmed model: same options, sliced state.

    State of a parameter's shape (momentum, Adam's averages) keeps the entries that the parameter keeps; all
    else, such as step counts, is copied. Parameters of dropped blocks are left out. The given one stays as it is.

    Args:
        optimiser: of `model`; SGD, Adam, AdamW, RMSprop, or any that keeps its state by parameter.
        model: the model before slimming.
        slimmed: what `slim(model, plan)` gave.
        plan: the plan.

    Raises:
        ModelError: a parameter of the optimiser is none of the model's, or the slimmed model is of another plan.
    """
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    places = dict(slimmed.named_parameters(remove_duplicate=False))
    groups: list[dict[str, Any]] = []
    state: dict[nn.Parameter, dict[str, Any]] = {}
    for group in optimiser.param_groups:
        kept: list[nn.Parameter] = []
        for parameter in group["params"]:
            name = names.get(id(parameter))
            if name is None:
                raise ModelError(
                    f"the optimiser has a parameter of shape {tuple(parameter.shape)} that is none of the model's",
                    hint="give the optimiser that was made from this model's parameters",
                )
            if name in places:
                kept.append(places[name])
                state[places[name]] = _sliced_state(optimiser.state.get(parameter, {}), parameter, name, plan)
                _check(places[name], parameter, name, plan)
        if kept:
            groups.append({**group, "params": kept})
    new = type(optimiser)(groups, **_required(optimiser))
    for parameter, values in state.items():
        if values:
            new.state[parameter] = values
    return new


def _required(optimiser: Optimizer) -> dict[str, Any]:
    return {name: value for name, value in optimiser.defaults.items() if name in {"lr", "momentum", "betas"}}


def _sliced_state(values: dict[str, Any], parameter: Tensor, name: str, plan: SlimmingPlan) -> dict[str, Any]:
    dims = plan.slices.get(name, {})
    return {
        key: _sliced_value(value, parameter, dims) if isinstance(value, Tensor) else value
        for key, value in values.items()
    }


def _sliced_value(value: Tensor, parameter: Tensor, dims: dict[int, tuple[int, ...]]) -> Tensor:
    if value.shape != parameter.shape or value.ndim == 0:
        return value.detach().clone()
    return sliced(value, dims)


def _check(smaller: Tensor, parameter: Tensor, name: str, plan: SlimmingPlan) -> None:
    shape = list(parameter.shape)
    for dim, kept in plan.slices.get(name, {}).items():
        shape[dim] = len(kept)
    if list(smaller.shape) != shape:
        raise ModelError(
            f"{name} has shape {list(smaller.shape)} in the slimmed model, {shape} by the plan",
            hint="give the plan that the model was slimmed with",
        )
