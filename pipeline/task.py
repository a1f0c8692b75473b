"""Tasks: a user's model, its weights and data, how it is trained; read from a file or from flags."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter, ValidationError

from pipeline.data.find import find
from pipeline.data.preprocess import Preprocess
from pipeline.data.sources import MARKS, SCALES, DataSource, labels_of, load, parse_source
from pipeline.data.splits import Split, Splits, hold_out
from pipeline.errors import DataError, TaskError
from pipeline.files import sha256
from pipeline.recipe import Recipe
from pipeline.resources import shipped_file, shipped_names
from pipeline.task_file import PreprocessTable, TaskFile
from pipeline.toml_files import check, closest, read_toml, show

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "DataSource",
    "Preprocess",
    "Recipe",
    "Split",
    "Splits",
    "Task",
    "load_task",
    "task_from_record",
    "task_record",
]

_FLAGS = "task given by flags"
_WEIGHTS_DIGEST = "weights_sha256"


@dataclass(frozen=True)
class Task:
    """Everything about one model that does not depend on a board.

    Attributes:
        name: for people and reports.
        factory: "package.module:function" or "/absolute/path.py:function".
        weights: the baseline's weights; None if it is to be trained from scratch by `baseline_recipe`.
        input_shape: (C, H, W), without the batch.
        data: where the examples come from.
        validation_share: of the training data, held out (0..0.5).
        preprocess: from stored values to inputs.
        baseline_recipe: how to train from scratch.
        recover_recipe: how to train after slimming.
        baseline_saw_validation: the given weights were trained on the examples that are held out here.
        published_accuracy: of the given weights, in percent, on examples they had not seen; None if unknown.
        seed: decides the validation split, fresh weights and training.
        labels: the names of the classes, if known.
        source: the file that this was read from.
        kwargs: arguments for the factory.
    """

    name: str
    factory: str
    weights: Path | None
    input_shape: tuple[int, ...]
    data: DataSource
    validation_share: float
    preprocess: Preprocess
    baseline_recipe: Recipe | None
    recover_recipe: Recipe
    baseline_saw_validation: bool
    seed: int
    labels: tuple[str, ...] | None
    source: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    published_accuracy: float | None = None

    def build_model(self, *, fresh: bool = False) -> nn.Module:
        """Return the model in eval mode, with its weights, or fresh ones (if `fresh`, or none are given).

        The seed decides fresh weights.

        Raises:
            TaskError: the factory, the weights or the input shape do not work (which, and why).
        """
        import torch

        from pipeline.model_source import load_weights, make_model, probe

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = make_model(self.factory, self.kwargs)
        if self.weights is not None and not fresh:
            load_weights(model, self.weights)
        model.eval()
        scores = probe(model, self.input_shape)
        if self.labels is not None and len(self.labels) != scores:
            raise TaskError(
                f"the model of {self.factory} gives {scores} scores, the data has {len(self.labels)} classes"
            )
        return model

    def load_data(self) -> Splits:
        """Return the examples, validation held out of training.

        Raises:
            DataError: missing, damaged, not of `input_shape`, or with more classes than labels.
        """
        whole, test = load(self.data, self.input_shape)
        train, validation = hold_out(whole, self.validation_share, self.seed)
        splits = Splits(train, validation, test)
        if self.labels is not None and splits.classes > len(self.labels):
            raise DataError(
                f"{self.data.path or self.data.kind}: holds class {splits.classes - 1}, "
                f"the task names {len(self.labels)} classes, counted from 0"
            )
        return splits


def load_task(
    name_or_path: str | None = None,
    *,
    data: Path | None = None,
    weights: str | Path | None = None,
    factory: str | None = None,
    data_source: str | None = None,
    input_shape: Sequence[int] | None = None,
    epochs: int | None = None,
) -> Task:
    """Return a task from a file, from a shipped name ("digits"), or, without either, from flags alone.

    Args:
        name_or_path: a .toml file, or the name of a shipped task.
        data: a folder in which data and weights are looked for first (the --data option).
        weights: replaces the file's; relative to the current folder, else looked for like the file's.
        factory: replaces the file's; a path in it is relative to the current folder.
        data_source: replaces the file's: "digits", "cifar10:DIR", "npz:FILE" or "images:DIR".
        input_shape: replaces the file's: C, H, W.
        epochs: replaces those of the recovery; 0 for none.

    Raises:
        TaskError: unknown task, faults in the file (one a line), weights or factory not found.
        DataError: data not found (where it looked).
    """
    raw, source, beside = {}, _FLAGS, Path.cwd()
    if name_or_path is not None:
        path = _find_file(name_or_path)
        raw, source, beside = read_toml(path, TaskError), str(path), path.absolute().parent
    _override(raw, "model", "factory", None if factory is None else _factory_from_here(factory))
    _override(raw, "model", "weights", None if weights is None else _from_here(str(weights)))
    _override(raw, "model", "input_shape", None if input_shape is None else list(input_shape))
    _override(raw, "data", "source", None if data_source is None else _source_from_here(data_source))
    task = _resolve(check(raw, TaskFile, source, TaskError), source, beside, data)
    return task if epochs is None else replace(task, recover_recipe=_shortened(task.recover_recipe, epochs))


def _shortened(recipe: Recipe, epochs: int) -> Recipe:
    return replace(recipe, epochs=epochs, warmup_epochs=min(recipe.warmup_epochs, max(0, epochs - 1)))


def task_record(task: Task) -> dict[str, Any]:
    """Return the task as JSON-able values, with the digest of its weights file."""
    record: dict[str, Any] = TypeAdapter(Task).dump_python(task, mode="json")
    return {**record, _WEIGHTS_DIGEST: None if task.weights is None else _digest(task.weights)}


def task_from_record(record: dict[str, Any]) -> Task:
    """Return the task that `task_record` wrote down.

    Raises:
        TaskError: the record is not one, or the weights file is gone or no longer the same.
    """
    try:
        task = TypeAdapter(Task).validate_python({k: v for k, v in record.items() if k != _WEIGHTS_DIGEST})
    except ValidationError as fault:
        raise TaskError(f"not the record of a task: {fault.error_count()} faults") from fault
    if task.weights is not None and _digest(task.weights) != record.get(_WEIGHTS_DIGEST):
        raise TaskError(
            f"weights {task.weights} have changed since this task was recorded",
            hint="put the old file back, or start a new run",
        )
    return task


def _find_file(name_or_path: str) -> Path:
    path = Path(name_or_path).expanduser()
    looks_like_path = path.suffix == ".toml" or len(path.parts) > 1
    if looks_like_path and path.is_file():
        return path
    known = shipped_names("examples")
    shipped = shipped_file("examples", path.name) if path.parent.name in {"", "examples"} else None
    if shipped is not None:
        return shipped
    if looks_like_path:
        raise TaskError(f"task {path}: no such file", hint=f"shipped tasks: {', '.join(known)}")
    raise TaskError(
        f"unknown task {show(name_or_path)}",
        hint=f"{closest(path.name, known)}known: {', '.join(known)}; or give the path of a .toml file",
    )


def _override(raw: dict[str, Any], table: str, key: str, value: object) -> None:
    if value is not None and isinstance(raw.setdefault(table, {}), dict):
        raw[table][key] = value


def _from_here(place: str) -> str:
    """Return a path that exists seen from the current folder as an absolute one; others unchanged."""
    path = Path(place).expanduser()
    return str(path.absolute()) if path.exists() else place


def _factory_from_here(factory: str) -> str:
    place, colon, name = factory.rpartition(":")
    return f"{_from_here(place)}{colon}{name}" if place.endswith(".py") else factory


def _source_from_here(source: str) -> str:
    kind, colon, place = source.partition(":")
    return f"{kind}{colon}{_from_here(place)}" if place else source


def _resolve(checked: TaskFile, source: str, beside: Path, extra: Path | None) -> Task:
    kind, place = parse_source(checked.data.source)
    where = None
    if place:
        where = find(place, "data", DataError, beside=beside, extra=extra, mark=MARKS.get(kind, ""))
    found = DataSource(kind, where)
    labels = labels_of(found) if checked.data.labels is None else tuple(checked.data.labels)
    return Task(
        name=checked.name or _name(checked, source),
        factory=_factory(checked.model.factory, beside),
        weights=_weights(checked.model.weights, beside, extra),
        input_shape=tuple(checked.model.input_shape),
        data=found,
        validation_share=checked.data.validation_share,
        preprocess=_preprocess(checked.preprocess, SCALES[kind]),
        baseline_recipe=None if checked.baseline is None else Recipe(**checked.baseline.model_dump()),
        recover_recipe=Recipe(**checked.recover.model_dump()),
        baseline_saw_validation=checked.baseline_saw_validation,
        seed=checked.seed,
        labels=labels,
        source=source,
        kwargs=dict(checked.model.kwargs),
        published_accuracy=checked.published_accuracy,
    )


def _name(checked: TaskFile, source: str) -> str:
    return checked.model.factory.rpartition(":")[2] if source == _FLAGS else Path(source).stem


def _factory(factory: str, beside: Path) -> str:
    place, _, name = factory.rpartition(":")
    if not place.endswith(".py"):
        return factory
    path = beside / Path(place).expanduser()
    if not path.is_file():
        raise TaskError(
            f"factory {factory}: no such file: {path}", hint="a path is relative to the task file's folder"
        )
    return f"{os.path.normpath(path)}:{name}"


def _weights(name: str | None, beside: Path, extra: Path | None) -> Path | None:
    if name is None:
        return None
    return find(name, "weights", TaskError, beside=beside, extra=extra, inside="pretrained")


def _preprocess(table: PreprocessTable, scale: float) -> Preprocess:
    return Preprocess(table.scale or scale, tuple(table.mean), tuple(table.std))


def _digest(path: Path) -> str:
    try:
        return sha256(path)
    except OSError as fault:
        raise TaskError(f"weights {path} cannot be read: {fault.strerror or fault}") from fault
