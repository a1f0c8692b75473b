"""A user's own data in one NumPy archive: x_train, y_train, x_test, y_test."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.splits import Split
from pipeline.errors import DataError

_KEYS = ("x_train", "y_train", "x_test", "y_test")


def load(path: Path) -> tuple[Split, Split]:
    """Return train and test: inputs (N, C, H, W), uint8 as stored or float32; (N, H, W) has one channel.

    Raises:
        DataError: no such file, damaged, arrays missing, of the wrong type or shape, of different lengths, or
            not finite.
    """
    arrays = _read(path)
    return _split(path, arrays, "train"), _split(path, arrays, "test")


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: one array, not an archive", hint="save it with numpy.savez")
        with archive:
            missing = [key for key in _KEYS if key not in archive.files]
            if missing:
                found = ", ".join(archive.files) or "nothing"
                raise DataError(f"{path}: {', '.join(missing)} missing; found {found}")
            return {key: archive[key] for key in _KEYS}
    except OSError as fault:
        raise DataError(f"{path}: cannot be read: {fault.strerror or fault}") from fault
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as fault:
        raise DataError(
            f"{path}: not a plain NumPy archive: {fault}", hint="save arrays of numbers with numpy.savez"
        ) from fault


def _split(path: Path, arrays: dict[str, npt.NDArray[Any]], part: str) -> Split:
    import torch

    inputs, targets = arrays[f"x_{part}"], arrays[f"y_{part}"]
    inputs = _inputs(f"{path}: x_{part}", inputs)
    where = f"{path}: y_{part}"
    if not np.issubdtype(targets.dtype, np.integer) or targets.ndim != 1:
        raise DataError(f"{where} is {_kind(targets)}; needed: whole numbers (N,)")
    if len(targets) != len(inputs) or not len(targets):
        raise DataError(f"{where} has {len(targets):,} entries, x_{part} has {len(inputs):,}")
    if targets.min() < 0:
        raise DataError(f"{where} holds {targets.min()}; classes are counted from 0")
    return Split(torch.from_numpy(inputs), torch.from_numpy(targets.astype(np.int64)))


def _inputs(where: str, inputs: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if inputs.ndim == 3:
        inputs = inputs[:, None]
    if inputs.ndim != 4 or not (inputs.dtype == np.uint8 or np.issubdtype(inputs.dtype, np.floating)):
        raise DataError(f"{where} is {_kind(inputs)}; needed: uint8 or float (N, C, H, W)")
    if inputs.dtype == np.uint8:
        return np.ascontiguousarray(inputs)
    inputs = np.ascontiguousarray(inputs, dtype=np.float32)
    if not np.isfinite(inputs).all():
        raise DataError(f"{where} holds values that are not finite numbers")
    return inputs


def _kind(array: npt.NDArray[Any]) -> str:
    return f"{array.dtype} {array.shape}"
