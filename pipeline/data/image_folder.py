"""A user's own images in folders: DIR/train/<class>/*.png and DIR/test/<class>/*.png (.jpg, .bmp, .webp)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.data.splits import Split
from pipeline.errors import DataError

if TYPE_CHECKING:
    from types import ModuleType

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp"}
_MODES = {1: "L", 3: "RGB"}


def load(folder: Path, shape: tuple[int, ...]) -> tuple[Split, Split]:
    """Return train and test: inputs uint8 (N, C, H, W); class numbers follow the names' order in train.

    Args:
        folder: holds `train` and `test`.
        shape: (C, H, W) that every image must have; C is 1 (read as grey) or 3 (read as RGB).

    Raises:
        DataError: pillow is not installed; a folder is missing or empty; test has a class that train has not;
            an image cannot be read or has another size.
    """
    if shape[0] not in _MODES:
        raise DataError(
            f"{folder}: images have 1 or 3 channels, the task's input shape {list(shape)} has {shape[0]}"
        )
    labels = class_names(folder)
    strangers = sorted(set(_classes(folder / "test")) - set(labels))
    if strangers:
        raise DataError(f"{folder}: classes in test but not in train: {', '.join(strangers)}")
    return _split(folder / "train", labels, shape), _split(folder / "test", labels, shape)


def class_names(folder: Path) -> tuple[str, ...]:
    """Return the classes: the subfolders of `folder`/train, sorted.

    Raises:
        DataError: there are none.
    """
    return _classes(folder / "train")


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder", hint="needed: DIR/train/<class>/*.png, DIR/test/<class>/*.png"
        )
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != "."))
    if not names:
        raise DataError(f"{folder}: no folders in it", hint="one folder for each class is needed")
    return names


def _split(folder: Path, labels: tuple[str, ...], shape: tuple[int, ...]) -> Split:
    import torch

    paths, targets = _images(folder, labels)
    images = np.empty((len(paths), *shape), np.uint8)
    pillow = _pillow()
    for number, path in enumerate(paths):
        images[number] = _pixels(pillow, path, shape)
    return Split(torch.from_numpy(images), torch.tensor(targets, dtype=torch.int64))


def _images(folder: Path, labels: tuple[str, ...]) -> tuple[list[Path], list[int]]:
    paths: list[Path] = []
    targets: list[int] = []
    for target, label in enumerate(labels):
        found = sorted(path for path in (folder / label).glob("*") if path.suffix.lower() in _SUFFIXES)
        paths += found
        targets += [target] * len(found)
    if not paths:
        raise DataError(f"{folder}: no images ({', '.join(sorted(_SUFFIXES))})")
    return paths, targets


def _pixels(pillow: ModuleType, path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    channels, height, width = shape
    try:
        with pillow.open(path) as image:
            if image.size != (width, height):
                found = f"{image.size[0]} x {image.size[1]}"
                raise DataError(
                    f"{path}: {found} pixels, the task's input shape {list(shape)} needs {width} x {height}",
                    hint="resize the images to one size first",
                )
            pixels: npt.NDArray[Any] = np.asarray(image.convert(_MODES[channels]), np.uint8)
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as fault:
        raise DataError(f"{path}: not a readable image: {fault}") from fault
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)


def _pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError:
        raise DataError(
            "image folders need the pillow package, which is not installed", hint="pip install pillow"
        ) from None
    return Image
