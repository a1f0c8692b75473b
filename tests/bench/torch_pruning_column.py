"""The zoo's other column: Torch-Pruning on the same model, with its plain settings.

Uniform magnitude pruning, the classifier left alone, no hints about heads or channel groups. What is asked of
it is less than what is asked of us: it must finish, run, and give finite outputs of the dense model's shapes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from zoo_catalogue import Subject, build
from zoo_checks import count_parameters, outputs_of, require


def revision() -> str:
    """Return what this column's results depend on: the library's version."""
    return f"torch-pruning {version('torch-pruning')}"


def measure(
    name: str, keep: float, image_size: int | None, stage: Callable[[str], None], record: dict[str, Any]
) -> None:
    """Prune one model and fill in `record`; an error leaves it as far as it got."""
    stage("warm-up")
    warm_up(keep)
    stage("build")
    subject = build(name, image_size)
    inputs = subject.inputs(1)
    with torch.no_grad():
        shapes = [one.shape for one in outputs_of(subject.model(*inputs))]
    record["parameters_before"] = count_parameters(subject.model)
    stage("prune")
    wall, processor = time.perf_counter(), time.process_time()
    try:
        prune(subject, inputs, keep)
    finally:
        record["seconds"] = time.process_time() - processor
        record["wall_seconds"] = time.perf_counter() - wall
    record["parameters_after"] = count_parameters(subject.model)
    stage("forward")
    with torch.no_grad():
        found = outputs_of(subject.model(*inputs))
    require([one.shape for one in found] == shapes, f"outputs of {[tuple(one.shape) for one in found]}")
    require(all(bool(one.isfinite().all()) for one in found), "outputs that are not finite")
    require(record["parameters_after"] < record["parameters_before"], "nothing was pruned")
    record["ok"] = True


def prune(subject: Subject, inputs: tuple[torch.Tensor, ...], keep: float) -> None:
    """Build its dependency graph and prune, in place."""
    import torch_pruning

    pruner = torch_pruning.pruner.MagnitudePruner(
        subject.model,
        inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=1.0 - keep,
        ignored_layers=[subject.model.get_submodule(name) for name in subject.outputs],
    )
    pruner.step()


def warm_up(keep: float) -> None:
    """Let imports and first-call costs fall outside the measured time, as they do for our column."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
    prune(Subject(net.eval(), lambda _: (), ("3",)), (torch.randn(1, 3, 8, 8),), keep)
