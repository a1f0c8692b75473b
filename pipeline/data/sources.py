"""The kinds of data that a task can name, and how each is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from pipeline.data import cifar10, digits, image_folder, npz
from pipeline.data.splits import Split
from pipeline.errors import DataError

Kind = Literal["digits", "cifar10", "npz", "images"]

RULE = '"digits", "cifar10:DIR", "npz:FILE" or "images:DIR"'
SCALES: dict[Kind, float] = {"digits": 1 / 16, "cifar10": 1 / 255, "npz": 1.0, "images": 1 / 255}
MARKS: dict[Kind, str] = {"cifar10": cifar10.TEST_FILE}


@dataclass(frozen=True)
class DataSource:
    """A kind of data and the file or folder that holds it (None for "digits", which needs neither)."""

    kind: Kind
    path: Path | None


def parse_source(text: str) -> tuple[Kind, str]:
    """Return "cifar10:some/folder" as its kind and its place, which is "" for "digits" alone.

    Raises:
        ValueError: not one of the forms that `RULE` lists.
    """
    name, colon, place = text.partition(":")
    kind = next((known for known in get_args(Kind) if known == name), None)
    if kind is None or bool(place) == (kind == "digits") or bool(colon) != bool(place):
        raise ValueError(text)
    found: Kind = kind
    return found, place


def load(source: DataSource, input_shape: tuple[int, ...]) -> tuple[Split, Split]:
    """Return train and test as stored: inputs (N, *input_shape).

    Raises:
        DataError: missing, damaged, or of another shape than `input_shape` (C, H, W).
    """
    train, test = _read(source, input_shape)
    for part, split in (("training", train), ("test", test)):
        found = tuple(split.inputs.shape[1:])
        if found != input_shape:
            raise DataError(
                f"{source.path or source.kind}: {part} inputs have shape {list(found)}, "
                f"the task's input_shape is {list(input_shape)}",
                hint="both are channels, height, width",
            )
    return train, test


def labels_of(source: DataSource) -> tuple[str, ...] | None:
    """Return the names of the classes, where the data knows them."""
    if source.kind == "images" and source.path is not None:
        return image_folder.class_names(source.path)
    return {"digits": digits.LABELS, "cifar10": cifar10.LABELS}.get(source.kind)


def _read(source: DataSource, input_shape: tuple[int, ...]) -> tuple[Split, Split]:
    if source.path is None:
        return digits.load()
    if source.kind == "cifar10":
        return cifar10.load(source.path)
    if source.kind == "npz":
        return npz.load(source.path)
    return image_folder.load(source.path, input_shape)
