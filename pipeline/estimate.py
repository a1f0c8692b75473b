"""`--dry-run`: what a deploy would do, how often the device would measure, and about how long it would take."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import nn

from pipeline.data.preprocess import apply
from pipeline.graph import trace
from pipeline.method import Method
from pipeline.profile import DeviceProfile
from pipeline.search import expected_shapes, searchable
from pipeline.task import Recipe, Splits, Task

SECONDS_PER_CONVERSION = 5.0
SECONDS_PER_LAYER = 0.03  # building, pushing and timing one small model of the table


@dataclass(frozen=True)
class Estimate:
    """What lies ahead. Times are estimates: one timed training step, and rules of thumb for the rest."""

    groups: int
    frozen: int
    layer_models: int
    measurements_least: int
    measurements_most: int
    epochs: int
    training_s: float
    other_s: float


def estimate(task: Task, profile: DeviceProfile, method: Method, *, train_baseline: bool) -> Estimate:
    """Trace the model and time one training step of it; the device is not touched."""
    model, splits = task.build_model(), task.load_data()
    graph = searchable(trace(model, apply(task.preprocess, splits.validation.inputs[:1])))
    variants = 1 + len(profile.also)
    layers = variants * expected_shapes(graph)
    recipes = [task.recover_recipe]
    if train_baseline and task.baseline_recipe is not None:
        recipes.append(task.baseline_recipe)
    several = method.cuts > 1  # then each cut is fitted beside the whole way
    measured = variants * (1 + method.rounds) + method.cuts * (1 + several * method.rounds)
    once = profile.measuring.min_duration_s + profile.measuring.warmup_max_s
    return Estimate(
        groups=len(graph.choosable),
        frozen=len(graph.frozen),
        layer_models=layers,
        measurements_least=2 * variants + method.cuts * (1 + several),
        measurements_most=measured,
        epochs=sum(recipe.epochs for recipe in recipes),
        training_s=sum(_training_seconds(model, task, splits, recipe) for recipe in recipes),
        other_s=measured * (SECONDS_PER_CONVERSION + once) + layers * SECONDS_PER_LAYER,
    )


def _training_seconds(model: nn.Module, task: Task, splits: Splits, recipe: Recipe) -> float:
    """Extrapolate one forward and backward pass; a teacher adds a third."""
    size = min(recipe.batch_size, len(splits.train.targets))
    batch, targets = apply(task.preprocess, splits.train.inputs[:size]), splits.train.targets[:size]
    model.train()
    seconds = min(_step_seconds(model, batch, targets) for _ in range(3))
    taught = 4 / 3 if recipe.distill_weight > 0 else 1.0
    return seconds * taught * recipe.epochs * len(splits.train.targets) / size


def _step_seconds(model: nn.Module, batch: torch.Tensor, targets: torch.Tensor) -> float:
    start = time.monotonic()
    torch.nn.functional.cross_entropy(model(batch), targets).backward()  # type: ignore[no-untyped-call]
    model.zero_grad()
    return time.monotonic() - start
