"""`--dry-run`: what a deploy would do, how often the device would measure, and about how long it would take."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import torch
from torch import nn

from pipeline.data.preprocess import apply
from pipeline.graph import trace
from pipeline.method import Method
from pipeline.profile import DeviceProfile
from pipeline.search import expected_shapes, searchable
from pipeline.store import StepRow, Store
from pipeline.survey import TABLE_STEP
from pipeline.task import Recipe, Splits, Task
from pipeline.workshop import MEASURE_STEP

_RUNS = 5  # so many of the last ones say how long it takes
_TRAINING = ": train"  # at the end of a step's name
_CONVERSION = "convert"


@dataclass(frozen=True)
class Experience:
    """How long parts of a deploy take, in seconds: rules of thumb, or what earlier deploys to the device took.

    Attributes:
        conversion_s: converting a model.
        measurement_s: measuring a whole model; `None`: as long as the profile's protocol says, on a fast device.
        layer_s: building, pushing and timing one small model of the table.
        rest_s: all that is neither these nor training.
        runs: how many deploys this was learned from.
    """

    conversion_s: float = 5.0
    measurement_s: float | None = None
    layer_s: float = 0.03
    rest_s: float = 10.0
    runs: int = 0

    @classmethod
    def with_device(cls, store: Store, device: str) -> Experience:
        """Learn from the last deploys to `device` that came to an end and really measured."""
        ended = [
            row.id
            for row in store.rows()
            if row.config.get("device") == device
            and not row.config.get("replay")
            and row.status in {"met", "infeasible"}
        ]
        runs = [store.steps(identity) for identity in ended[:_RUNS]]
        steps = [step for run in runs for step in run]
        measured = [step.seconds for step in steps if MEASURE_STEP in step.name]
        if not measured:
            return cls()
        converted = [step.seconds for step in steps if step.name.endswith(_CONVERSION)]
        tables = [step for step in steps if TABLE_STEP in step.name]
        layers = sum(len(json.loads(step.value).get("layers", ())) for step in tables)
        return cls(
            conversion_s=median(converted) if converted else cls.conversion_s,
            measurement_s=median(measured),
            layer_s=sum(step.seconds for step in tables) / layers if layers else cls.layer_s,
            rest_s=median(map(_rest_s, runs)),
            runs=len(runs),
        )


def _rest_s(steps: Sequence[StepRow]) -> float:
    return sum(
        step.seconds
        for step in steps
        if not step.name.endswith((_TRAINING, _CONVERSION))
        and MEASURE_STEP not in step.name
        and TABLE_STEP not in step.name
    )


@dataclass(frozen=True)
class Estimate:
    """What lies ahead. Times are estimates: one timed training step, and experience for the rest."""

    groups: int
    frozen: int
    layer_models: int
    measurements_least: int
    measurements_most: int
    epochs: int
    training_s: float
    other_s: float


def estimate(
    task: Task, profile: DeviceProfile, method: Method, experience: Experience, *, train_baseline: bool
) -> Estimate:
    """Trace the model and time one training step of it; the device is not touched."""
    model, splits = task.build_model(), task.load_data()
    graph = searchable(trace(model, apply(task.preprocess, splits.validation.inputs[:1])))
    variants = 1 + len(profile.also)
    layers = variants * expected_shapes(graph)
    recipes = [task.recover_recipe]
    if train_baseline and task.baseline_recipe is not None:
        recipes.append(task.baseline_recipe)
    several = method.cuts > 1  # then each cut is fitted beside the whole way
    least = 2 * variants + method.cuts * (1 + several)
    most = variants * (1 + method.rounds) + method.cuts * (1 + several * method.rounds)
    once_s = experience.measurement_s
    if once_s is None:
        once_s = profile.measuring.min_duration_s + profile.measuring.warmup_max_s
    return Estimate(
        groups=len(graph.choosable),
        frozen=len(graph.frozen),
        layer_models=layers,
        measurements_least=least,
        measurements_most=most,
        epochs=sum(recipe.epochs for recipe in recipes),
        training_s=sum(_training_seconds(model, task, splits, recipe) for recipe in recipes),
        other_s=(least + most) / 2 * (experience.conversion_s + once_s)
        + layers * experience.layer_s
        + experience.rest_s,
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
