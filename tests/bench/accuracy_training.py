"""The same recovery for every method's model: the task's recipe, the dense model as teacher, seeds that are paired.

What counts is the test accuracy of the LAST epoch's weights, as in a deploy: the given dense weights were trained on
the images that are held out for validation, so choosing by those would favour whoever stays nearest to them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from accuracy_fit import Fit, Fits
from pydantic import TypeAdapter
from torch import nn

from pipeline.data.splits import Splits, pick_by_class, select
from pipeline.files import write_text
from pipeline.prune import SlimmingPlan
from pipeline.recipe import Recipe
from pipeline.recover import accuracy, images_to_fit, recalibrate_batch_norm, reconstruct, train
from pipeline.recover.precision import use_bf16
from pipeline.task import Task
from pipeline.watch import Advance, ignore
from pipeline.workshop import RECALIBRATION_BATCHES


@dataclass(frozen=True)
class Terms:
    """What all trainings of one table have in common; `anew`: layers are fitted anew before."""

    epochs: int
    learning_rate: float
    train_share: float
    anew: bool = False

    @property
    def name(self) -> str:
        """For file names."""
        name = f"{self.epochs}-epochs-lr-{self.learning_rate:g}-share-{self.train_share:g}"
        return f"{name}-anew" if self.anew else name

    def recipe(self, task: Task) -> Recipe:
        """Return the task's recovery with these terms."""
        own = task.recover_recipe
        warmup = min(own.warmup_epochs, self.epochs - 1)
        rate = self.learning_rate
        return replace(
            own, epochs=self.epochs, warmup_epochs=warmup, learning_rate=rate, patience_epochs=None
        )


@dataclass(frozen=True)
class Trained:
    """One training: test accuracy in percent before and after it, and how it was made."""

    method: str
    seed: int
    terms: Terms
    before: float
    after: float
    validation: tuple[float, ...]
    bf16: bool
    threads: int


class Trainings:
    """The finished trainings of one model at one share, kept in the bench's folder."""

    def __init__(self, folder: Path, key: str) -> None:
        self._place = folder / "trained" / key

    def read(self) -> list[Trained]:
        """Return all that are finished."""
        files = sorted(self._place.glob("*.json"))
        return [TypeAdapter(Trained).validate_json(file.read_text()) for file in files]

    def has(self, method: str, seed: int, terms: Terms) -> bool:
        """Tell whether a training is finished."""
        return self._file(method, seed, terms).exists()

    def keep(self, done: Trained) -> None:
        """Keep a finished training; what it needed to go on is removed."""
        write_text(self._file(done.method, done.seed, done.terms), json.dumps(asdict(done), indent=2))
        self.checkpoint(done.method, done.seed, done.terms).unlink(missing_ok=True)

    def checkpoint(self, method: str, seed: int, terms: Terms) -> Path:
        """Return the place of a training's checkpoint."""
        return self._file(method, seed, terms).with_suffix(".checkpoint.safetensors")

    def _file(self, method: str, seed: int, terms: Terms) -> Path:
        return self._place / f"{method}-seed-{seed}-{terms.name}.json"


def train_one(
    fits: Fits, trainings: Trainings, task: Task, fit: Fit, seed: int, terms: Terms, progress: Advance
) -> Trained:
    """Train one fit's model with one seed, or go on with it, and keep the result.

    The seed decides the order of the images and their augmentation, the same for every method.
    """
    splits, recipe = _shortened(task, terms.train_share), terms.recipe(task)
    model = fits.build(fit, task)
    if terms.anew:
        _fit_anew(model, fits.plan(fit, task), task, splits)
    before = accuracy(model, splits.test, task.preprocess)
    checkpoint = trainings.checkpoint(fit.method, seed, terms)
    result = train(
        model,
        splits=splits,
        preprocess=task.preprocess,
        recipe=recipe,
        seed=seed,
        checkpoint=checkpoint,
        teacher=task.build_model(),
        progress=progress,
        validation_seen=True,
    )
    done = Trained(
        fit.method,
        seed,
        terms,
        before,
        accuracy(model, splits.test, task.preprocess),
        tuple(record.validation_accuracy for record in result.history),
        use_bf16(recipe.precision),
        torch.get_num_threads(),
    )
    trainings.keep(done)
    return done


def _fit_anew(model: nn.Module, plan: SlimmingPlan, task: Task, splits: Splits) -> None:
    """Fit what is left of each layer to the dense model's, as a deploy does."""
    inputs, whole = images_to_fit(splits.train, task.preprocess, task.seed), task.build_model()
    reconstruct(model, whole=whole, plan=plan, inputs=inputs, seed=task.seed, progress=ignore)
    recalibrate_batch_norm(
        model,
        split=splits.train,
        preprocess=task.preprocess,
        seed=task.seed,
        batches=RECALIBRATION_BATCHES,
    )
    model.eval()


def _shortened(task: Task, share: float) -> Splits:
    """Return the task's data with a share of every class of the training images, the same for all methods and seeds."""
    splits = task.load_data()
    if share == 1:
        return splits
    order = np.random.default_rng(task.seed).permutation
    return replace(
        splits, train=select(splits.train, pick_by_class(splits.train.targets.numpy(), share, order))
    )
