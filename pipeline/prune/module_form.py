"""A slimmed model of the user's own classes: a copy with sliced parameters and attributes made true."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from pipeline.prune.copies import copied, recompute_weights, sliced
from pipeline.prune.plan import Number, SlimmingPlan
from pipeline.prune.truth import tell_truth


def module_form(model: nn.Module, plan: SlimmingPlan) -> nn.Module:
    """Return what the plan leaves of a model; the plan must fit it.

    No tensor that shrinks is ever copied at its full width: the copy is given the slices in their place. Modes,
    dtypes, devices, hooks, `requires_grad` and ties are kept, gradients are not.

    Raises:
        ModelError: the model holds something that cannot be copied.
    """
    tensors = {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }
    replaced: dict[int, object] = {
        id(tensors[name]): sliced(tensors[name], dims) for name, dims in plan.slices.items()
    }
    for name in plan.dropped:
        module = model.get_submodule(name)
        replaced[id(module)] = nn.Identity().train(module.training)
    smaller = copied(model, replaced)
    for path, numbers in plan.attributes.items():
        _set(smaller.get_submodule(path), numbers)
    recompute_weights(smaller)
    tell_truth(smaller)  # after the numbers of groups: the widths of grouped layers follow them
    return smaller


def _set(module: nn.Module, numbers: Mapping[str, int | list[int]]) -> None:
    """Set attributes; lists of numbers keep their type."""
    for name, number in numbers.items():
        value: Number | tuple[int, ...] = number
        if isinstance(getattr(module, name), tuple) and isinstance(number, list):
            value = tuple(number)
        setattr(module, name, value)
