"""Users' own NumPy archives."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.data import npz
from pipeline.errors import DataError


def arrays(**changes: Any) -> dict[str, Any]:
    good = {
        "x_train": np.zeros((6, 3, 4, 4), np.uint8),
        "y_train": np.arange(6) % 2,
        "x_test": np.ones((2, 3, 4, 4), np.float64),
        "y_test": np.array([0, 1], np.uint8),
    }
    return {**good, **changes}


def save(tmp_path: Path, content: dict[str, Any]) -> Path:
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, **content)
    return path


def test_bytes_stay_bytes_and_floats_become_float32(tmp_path: Path) -> None:
    train, test = npz.load(save(tmp_path, arrays()))
    assert train.inputs.dtype == torch.uint8
    assert test.inputs.dtype == torch.float32
    assert test.targets.tolist() == [0, 1]
    assert test.targets.dtype == torch.int64


def test_images_without_channels_get_one(tmp_path: Path) -> None:
    train, _ = npz.load(save(tmp_path, arrays(x_train=np.zeros((6, 4, 4), np.uint8))))
    assert tuple(train.inputs.shape) == (6, 1, 4, 4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"x_train": np.zeros((6, 3), np.uint8)}, r"x_train is uint8 \(6, 3\); needed: uint8 or float"),
        ({"x_train": np.zeros((6, 3, 4, 4), np.int64)}, "x_train is int64"),
        ({"x_train": np.full((6, 3, 4, 4), np.nan)}, "not finite"),
        ({"y_train": np.zeros(5, int)}, "y_train has 5 entries, x_train has 6"),
        ({"y_train": np.zeros(6)}, "y_train is float64"),
        ({"y_train": np.full(6, -1)}, "y_train holds -1"),
        ({"y_test": np.array([{}, {}], object)}, "not a plain NumPy archive"),
    ],
)
def test_unusable_arrays_are_named(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(DataError, match=expected):
        npz.load(save(tmp_path, arrays(**changes)))


def test_missing_arrays_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="y_train, x_test, y_test missing; found x_train"):
        npz.load(save(tmp_path, {"x_train": np.zeros(3)}))


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path, arrays())
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"text", whole[:60] + bytes(20) + whole[80:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"mine\.npz"):
            npz.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        npz.load(tmp_path / "none.npz")


def test_a_single_array_is_not_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "one.npy"
    np.save(path, np.zeros(3))
    with pytest.raises(DataError, match="one array"):
        npz.load(path)
