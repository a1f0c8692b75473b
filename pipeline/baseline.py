"""The model as the user has it: loaded from its weights, or trained once and cached."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import platformdirs
from safetensors.torch import load_file, save_file
from torch import nn

from pipeline.candidate import Built
from pipeline.files import write_atomically
from pipeline.model_source import factory_digest
from pipeline.task import Recipe, Task, task_record
from pipeline.watch import Advance
from pipeline.workshop import Workshop


def prepare(shop: Workshop) -> Built:
    """Return the baseline's files, converted; train it first if the task has no weights for it."""
    recipe = shop.task.baseline_recipe
    if shop.task.weights is None and recipe is not None:
        shop.step("baseline: train", str, lambda advance: str(_trained(shop, recipe, advance)))
    return shop.step(
        "baseline: convert", Built, lambda advance: shop.convert(_load(shop, advance), "baseline")
    )


def needs_training(task: Task) -> bool:
    """Tell whether a deploy of this task would have to train the baseline first."""
    return task.weights is None and task.baseline_recipe is not None and not _cache_file(task).exists()


def _load(shop: Workshop, advance: Advance) -> nn.Module:
    model = shop.task.build_model()
    if shop.task.weights is None and shop.task.baseline_recipe is not None:
        model.load_state_dict(load_file(_trained(shop, shop.task.baseline_recipe, advance)))
    return model.eval()


def _trained(shop: Workshop, recipe: Recipe, advance: Advance) -> Path:
    """Train the baseline unless an earlier run did so; the checkpoint lies beside it, so a kill costs one epoch."""
    cached = _cache_file(shop.task)
    if cached.exists():
        return cached
    model = shop.task.build_model()
    checkpoint = cached.with_suffix(".checkpoint.safetensors")
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    shop.train(model, recipe, checkpoint, advance, None)
    tensors = {key: value.detach().contiguous().clone() for key, value in model.state_dict().items()}
    write_atomically(cached, lambda place: save_file(tensors, place))
    checkpoint.unlink(missing_ok=True)
    return cached


def _cache_file(task: Task) -> Path:
    """Name the cached weights after all that they depend on: task, recipe, seed and the factory's source."""
    record = task_record(task)
    relevant = {
        key: record[key]
        for key in ("factory", "kwargs", "input_shape", "data", "preprocess", "seed", "validation_share")
    }
    relevant["baseline_recipe"] = record["baseline_recipe"]
    relevant["source"] = factory_digest(task.factory)
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16]
    return Path(platformdirs.user_cache_dir("pipeline")) / "baselines" / f"{task.name}-{digest}.safetensors"
