"""The tables of a task file: which keys there are, and which values each allows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field, JsonValue, field_validator

from pipeline.data.sources import RULE, parse_source
from pipeline.recipe import Augmentation, Precision
from pipeline.recipe import Recipe as Defaults
from pipeline.toml_files import Table

_FACTORY = re.compile(r"(?:\w+(?:\.\w+)*|.+\.py):\w+")
_SHARE = "a number from 0 to 1, such as 0.5"
_PositiveInt = Annotated[int, Field(ge=1)]
_PositiveFloat = Annotated[float, Field(gt=0)]


class ModelTable(Table):
    """The user's model."""

    factory: str = Field(description='"package.module:function" or "path/to/file.py:function"')
    weights: str | None = Field(
        default=None,
        min_length=1,
        description="a .safetensors file, or one written by torch.save(state_dict)",
    )
    input_shape: list[_PositiveInt] = Field(
        min_length=3, max_length=3, description="channels, height, width, such as [3, 32, 32]"
    )
    kwargs: dict[str, JsonValue] = Field(default={}, description="a table of arguments for the factory")

    @field_validator("factory")
    @classmethod
    def _is_reference(cls, text: str) -> str:
        if not _FACTORY.fullmatch(text):
            raise ValueError(text)
        return text


class DataTable(Table):
    """The data set, and how much of it is held out of training for validation."""

    source: str = Field(description=RULE)
    validation_share: float = Field(
        default=0.1, gt=0, le=0.5, description="a share of the training data above 0, up to 0.5"
    )
    labels: list[str] | None = Field(
        default=None, min_length=2, description="the names of the classes in order"
    )

    @field_validator("source")
    @classmethod
    def _is_source(cls, text: str) -> str:
        parse_source(text)
        return text


class PreprocessTable(Table):
    """From stored values to inputs: (raw * scale - mean) / std."""

    scale: float | None = Field(default=None, gt=0, description="a number above 0, such as 0.00392157")
    mean: list[float] = Field(default=[0.0], min_length=1, description="one number, or one for each channel")
    std: list[_PositiveFloat] = Field(
        default=[1.0], min_length=1, description="one number above 0, or one for each channel"
    )


class RecipeTable(Table):
    """One training; see `pipeline.recipe.Recipe`."""

    epochs: int = Field(ge=1, le=10_000, description="a whole number from 1")
    batch_size: int = Field(default=Defaults.batch_size, ge=1, description="a whole number from 1")
    learning_rate: float = Field(
        default=Defaults.learning_rate, gt=0, le=100, description="a number above 0, such as 0.05"
    )
    momentum: float = Field(default=Defaults.momentum, ge=0, lt=1, description="a number from 0, below 1")
    weight_decay: float = Field(
        default=Defaults.weight_decay, ge=0, le=1, description="a number from 0, such as 0.0005"
    )
    warmup_epochs: int = Field(default=Defaults.warmup_epochs, ge=0, description="a whole number from 0")
    label_smoothing: float = Field(
        default=Defaults.label_smoothing, ge=0, lt=1, description="a number from 0, below 1"
    )
    augment: Augmentation = Field(default=Defaults.augment, description='"none", "crop-flip" or "shift"')
    distill_weight: float = Field(default=Defaults.distill_weight, ge=0, le=1, description=_SHARE)
    distill_temperature: float = Field(
        default=Defaults.distill_temperature, gt=0, le=100, description="a number above 0, such as 4.0"
    )
    patience_epochs: int | None = Field(default=None, ge=1, description="a whole number from 1")
    precision: Precision = Field(default=Defaults.precision, description='"auto", "fp32" or "bf16"')

    @classmethod
    def contradictions(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        """The warm-up must end before the training does."""
        epochs, warmup = raw.get("epochs"), raw.get("warmup_epochs")
        if isinstance(epochs, int) and isinstance(warmup, int) and warmup >= epochs >= 1:
            yield f"warmup_epochs: found {warmup}; allowed: fewer than epochs ({epochs})"


class TaskFile(Table):
    """A whole task."""

    name: str | None = Field(default=None, min_length=1, description="text in quotes")
    seed: int = Field(default=0, ge=0, lt=2**31, description="a whole number from 0")
    baseline_saw_validation: bool = Field(default=False, description="true or false")
    published_accuracy: float | None = Field(
        default=None, gt=1, le=100, description="percent, such as 91.73 (of the given weights, on a test set)"
    )
    model: ModelTable = Field(description="a table [model] with factory and input_shape")
    data: DataTable = Field(description="a table [data] with source")
    preprocess: PreprocessTable = Field(default=PreprocessTable(), description="a table [preprocess]")
    baseline: RecipeTable | None = Field(
        default=None, description="a table [baseline]: how to train from scratch"
    )
    recover: RecipeTable = Field(
        default=RecipeTable(epochs=20, learning_rate=0.02, distill_weight=0.5),
        description="a table [recover]: how to train after slimming",
    )

    @classmethod
    def contradictions(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        """A baseline must come from somewhere; channels and labels must agree."""
        model, data, preprocess = (_table(raw, name) for name in ("model", "data", "preprocess"))
        if "weights" not in model and "baseline" not in raw:
            yield "model.weights: missing; needed: trained weights, or a table [baseline] to make some"
        shape = model.get("input_shape")
        if isinstance(shape, list) and len(shape) == 3:
            for key in ("mean", "std"):
                values = preprocess.get(key)
                if isinstance(values, list) and values and len(values) not in (1, shape[0]):
                    yield f"preprocess.{key}: found {len(values)} numbers; allowed: 1, or one a channel"
        labels = data.get("labels")
        if isinstance(labels, list) and len(set(map(str, labels))) < len(labels):
            yield "data.labels: found the same name twice; allowed: each name once"


def _table(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = raw.get(name)
    return inner if isinstance(inner, Mapping) else {}
