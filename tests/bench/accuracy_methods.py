"""The searches that are driven by a pruning ratio, and how a model that one of them cut is built again.

Every method may cut what ours may: the widths inside the residual blocks. The residual streams of these networks stay
whole, since their shortcuts pad channels (option A of He et al. 2016); Torch-Pruning is told so by `ignored_layers`.
Units are scored on the same calibration batches, and batch norms are recalibrated alike.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.candidate import Built
from pipeline.errors import InputError
from pipeline.graph import DependencyGraph
from pipeline.prune import SlimmingPlan, slim, uniform_plan
from pipeline.recover import recalibrate_batch_norm
from pipeline.task import Task
from pipeline.workshop import RECALIBRATION_BATCHES, Workshop

STEPS = 10  # of Torch-Pruning on its way to a ratio
Cut = Callable[[float], nn.Module]  # pruning ratio, above 0 and below 1 → smaller model in eval mode
Method = Callable[[Workshop, Built, DependencyGraph], Cut]


def uniform_l1(shop: Workshop, baseline: Built, graph: DependencyGraph) -> Cut:
    """Cut the same share from every group, the units with the smallest L1 norm first (Li et al. 2017)."""
    whole = [group.name for group in graph.groups if group.name not in graph.choosable]

    def cut(ratio: float) -> nn.Module:
        return shop.slimmed(baseline, uniform_plan(graph, keep=1 - ratio, importance="l1", ignore=whole))

    return cut


def tp_taylor(shop: Workshop, baseline: Built, graph: DependencyGraph, *, round_to: int | None = None) -> Cut:
    """Torch-Pruning, ranked by GroupTaylorImportance (Molchanov et al. 2019, summed over a group's weights)."""
    importance = _torch_pruning().importance.GroupTaylorImportance()
    return _by_torch_pruning(shop, baseline, graph, importance, partial(_learn_gradients, shop), round_to)


def tp_group_norm(shop: Workshop, baseline: Built, graph: DependencyGraph) -> Cut:
    """Torch-Pruning, ranked by a group's L2 norm (Fang et al. 2023, DepGraph, without its sparse training)."""
    importance = _torch_pruning().importance.GroupMagnitudeImportance(p=2)
    return _by_torch_pruning(shop, baseline, graph, importance, lambda _: None)


BY_RATIO: dict[str, Method] = {
    "uniform_l1": uniform_l1,
    "tp_taylor": tp_taylor,
    "tp_taylor_round_8": partial(tp_taylor, round_to=8),  # as one who knows the kernels' tiles would
    "tp_group_norm": tp_group_norm,
}


def _torch_pruning() -> Any:
    try:
        import torch_pruning  # type: ignore[import-not-found]
    except ImportError as error:
        hint = "python -m pip install torch-pruning --no-deps"
        raise InputError("Torch-Pruning is not installed here", hint=hint) from error
    return torch_pruning


def _by_torch_pruning(
    shop: Workshop,
    baseline: Built,
    graph: DependencyGraph,
    importance: Callable[..., Tensor],
    prepare: Callable[[nn.Module], None],
    round_to: int | None = None,
) -> Cut:
    """Return how Torch-Pruning cuts: all groups ranked together, scored anew at each step.

    In one step it would leave those groups whole that rank below all others. `prepare` makes ready for scoring.
    """
    fixed = {layer.name.partition("#")[0] for layer in graph.layers if layer.out_group not in graph.choosable}

    def cut(ratio: float) -> nn.Module:
        model = shop.model(baseline)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pruner = _torch_pruning().pruner.BasePruner(
                model,
                shop.example(),
                importance=importance,
                global_pruning=True,
                pruning_ratio=ratio,
                iterative_steps=STEPS,
                round_to=round_to,
                ignored_layers=[model.get_submodule(name) for name in sorted(fixed)],
            )
            for _ in range(STEPS):
                prepare(model)
                pruner.step()
        model.zero_grad(set_to_none=True)
        recalibrate_batch_norm(
            model,
            split=shop.splits.train,
            preprocess=shop.task.preprocess,
            seed=shop.task.seed,
            batches=RECALIBRATION_BATCHES,
        )
        return model.eval()

    return cut


def _learn_gradients(shop: Workshop, model: nn.Module) -> None:
    """Leave the gradients of the summed cross-entropy on the calibration batches in the model, in eval mode."""
    model.zero_grad(set_to_none=True)
    for inputs, targets in shop.calibration_batches():
        functional.cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]


def rebuild(task: Task, plans: Sequence[str], weights: Mapping[str, Tensor]) -> nn.Module:
    """Return a cut model, in eval mode, from its weights and the plans (JSON) by which our `slim` made it.

    Without plans every layer gets the sizes of its weights.
    """
    model = task.build_model(fresh=True)
    for plan in plans:
        model = slim(model, SlimmingPlan.from_json(plan))
    if not plans:
        _resize(model, weights)
    model.load_state_dict(weights)
    return model.eval()


def _resize(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give convolutions (without groups), batch norms and linear layers the sizes of `weights`, in place."""
    for name, module in model.named_modules():
        own = {key: weights[f"{name}.{key}"] for key in module.state_dict() if f"{name}.{key}" in weights}
        if isinstance(module, nn.Conv2d):
            module.out_channels, module.in_channels = own["weight"].shape[:2]
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = own["weight"].shape
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = len(own["running_mean"])
        else:
            continue
        for key, value in own.items():
            fresh = torch.empty_like(value)
            setattr(module, key, nn.Parameter(fresh) if key in module._parameters else fresh)


def work(model: nn.Module, example: Tensor) -> tuple[int, int]:
    """Return the multiplications of convolutions and linear layers on `example`, and the parameters."""
    counted = []

    def count(module: nn.Module, _: object, output: Tensor) -> None:
        weight = module.get_parameter("weight")
        places = output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        counted.append(places * weight.numel())

    layers = [each for each in model.modules() if isinstance(each, nn.Conv2d | nn.Linear)]
    handles = [layer.register_forward_hook(count) for layer in layers]
    with torch.inference_mode():
        model(example)
    for handle in handles:
        handle.remove()
    return sum(counted), sum(parameter.numel() for parameter in model.parameters())
