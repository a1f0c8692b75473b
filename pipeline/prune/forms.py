"""Which form a plan takes: the model's own classes, or its captured graph where their code bakes widths in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pipeline.errors import ModelError
from pipeline.prune.attributes import is_certain, mended_attributes
from pipeline.prune.graph_form import graph_form
from pipeline.prune.mends import mends
from pipeline.prune.module_form import module_form
from pipeline.prune.plan import is_within

if TYPE_CHECKING:
    from pipeline.graph.groups import DependencyGraph
    from pipeline.prune.plan import SlimmingPlan

TOLERANCE = 1e-12  # of the largest output, in double precision
NOISE = 0.02
SMALL = 4096  # entries


def with_form(graph: DependencyGraph, plan: SlimmingPlan) -> SlimmingPlan:
    """Return the plan with the numbers that the model's attributes must have, or in graph form.

    Only where the graph has numbers that no known layer explains is anything run: the slimmed module must then
    give what the slimmed graph gives.

    Raises:
        ModelError: the model cannot run on what the plan leaves.
    """
    alive = graph.capture.alive(plan.left)
    changes = mends(graph.capture, alive)
    numbers = mended_attributes(graph.model, graph.capture, changes)
    gone = [path for path in numbers if any(is_within(path, block) for block in plan.dropped)]
    plan = replace(plan, attributes={path: each for path, each in numbers.items() if path not in gone})
    if not plan.dropped and is_certain(graph.model, graph.capture):
        return plan
    can_be = not any(change.argument == "scale" for change in changes)  # a default that no attribute holds
    whole = graph_form(graph.model, graph.capture, alive, plan.dropped, any_batch=False)
    _stir(whole)
    expected = _run(whole, graph)
    return (
        plan
        if can_be and _agree(graph, plan, whole, expected)
        else replace(plan, attributes={}, form="graph")
    )


def _run(whole: nn.Module, graph: DependencyGraph) -> list[Tensor]:
    try:
        return outputs_of(whole, graph.examples)
    except Exception as error:
        raise ModelError(
            f"{type(graph.model).__name__} cannot run on what the plan leaves: {error}",
            hint="a part of the channels that is used on its own may have been left without any; keep some of each",
        ) from error


def _agree(graph: DependencyGraph, plan: SlimmingPlan, whole: nn.Module, expected: list[Tensor]) -> bool:
    """Run the module form, too: in the model's own precision first, where both are mostly equal to the last bit."""
    module = module_form(graph.model, plan)
    _stir(module)
    try:
        found = outputs_of(module, graph.examples)
        if len(found) == len(expected) and all(map(torch.equal, found, expected)):
            return True
        exact = [one.double() if one.is_floating_point() else one for one in graph.examples]
        pairs = zip(outputs_of(module.double(), exact), outputs_of(whole.double(), exact), strict=True)
        return all(_is_close(*pair) for pair in pairs)
    except Exception:  # noqa: BLE001 (the user's forward may raise anything at widths it does not expect)
        return False


def _stir(model: nn.Module) -> None:
    """Add noise to small parameters and to silent ones, the same for every model of these names.

    No branch may be silent (a layer scale of zero), or what is wrong in it would not be heard.
    """
    generator = torch.Generator().manual_seed(0)
    for _, parameter in sorted(model.named_parameters()):
        sample = parameter.detach().reshape(-1)[:SMALL]
        if parameter.numel() <= SMALL or bool((sample == sample[0]).all()):
            noise = torch.rand(parameter.shape, generator=generator).to(parameter.device, parameter.dtype)
            size = parameter.data.std() if parameter.numel() > 1 else 0.0
            parameter.data.add_(noise * (size + NOISE))


def _is_close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape or not expected.numel():
        return found.shape == expected.shape
    scale = float(expected.abs().max())
    return torch.allclose(found, expected, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True)


def outputs_of(model: nn.Module, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return all tensors that the model gives."""
    with torch.no_grad():
        return [leaf for leaf in pytree.tree_leaves(model(*inputs)) if isinstance(leaf, Tensor)]
