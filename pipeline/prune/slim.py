"""Apply a slimming plan: a new, smaller module of the same classes; the given one is never touched."""

from __future__ import annotations

import warnings

from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.prune.connections import apply_masks, masks_of
from pipeline.prune.graph_form import graph_form
from pipeline.prune.module_form import module_form
from pipeline.prune.plan import SlimmingPlan, index_fault, is_within, model_digest


class SlimmingWarning(UserWarning):
    """The slimmed model is not of the classes that it was made from."""


def slim(model: nn.Module, plan: SlimmingPlan) -> nn.Module:
    """Return a smaller copy of `model`; modes, dtypes, devices, hooks, `requires_grad` and ties are kept.

    It is of the model's own classes (`plan.form` is "module"), a dropped block being an `nn.Identity`; or, where
    the model's code bakes in widths that cannot be mended, a module that runs the model's captured graph, which
    a `SlimmingWarning` tells. Parameters have their own names in both.

    All or nothing: the plan is checked before anything is made. Gradients are not carried over.

    Raises:
        ModelError: the plan is of another model, or an entry of it is wrong; the message says where.
    """
    _check(model, plan)
    slimmed = module_form(model, plan) if plan.form == "module" else _as_graph(model, plan)
    apply_masks(slimmed, masks_of(plan))
    return slimmed


def _as_graph(model: nn.Module, plan: SlimmingPlan) -> nn.Module:
    warnings.warn(
        f"{type(model).__name__} bakes widths into its code: it is slimmed as a graph, not as a module of its class",
        SlimmingWarning,
        stacklevel=3,
    )
    from pipeline.graph.trace import captured  # imports this package

    capture = captured(model, plan.inputs)
    return graph_form(model, capture, capture.alive(plan.left), plan.dropped)


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
