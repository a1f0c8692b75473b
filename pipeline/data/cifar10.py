"""CIFAR-10 in its official binary layout: records of a label byte and 3,072 bytes of pixels (32 x 32 RGB)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.data.splits import Split
from pipeline.errors import DataError

LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_FILES = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
TEST_FILE = "test_batch.bin"
RECORDS_PER_FILE = 10_000

_SHAPE = (3, 32, 32)
_RECORD_BYTES = 1 + 3 * 32 * 32


def load(folder: Path, records_per_file: int = RECORDS_PER_FILE) -> tuple[Split, Split]:
    """Return train (50,000) and test (10,000): inputs uint8 (N, 3, 32, 32).

    Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.

    Raises:
        DataError: a file is missing, is not exactly `records_per_file` records long, or has a label above 9.
    """
    train = np.concatenate([_records(folder / name, records_per_file) for name in TRAIN_FILES])
    return _split(train), _split(_records(folder / TEST_FILE, records_per_file))


def _records(path: Path, count: int) -> npt.NDArray[np.uint8]:
    try:
        data = np.fromfile(path, np.uint8)
    except OSError as fault:
        raise DataError(
            f"{path}: cannot be read: {fault.strerror or fault}",
            hint=f"a CIFAR-10 folder holds {TRAIN_FILES[0]} to {TRAIN_FILES[-1]} and {TEST_FILE}",
        ) from fault
    if data.size != count * _RECORD_BYTES:
        whole, rest = divmod(data.size, _RECORD_BYTES)
        raise DataError(
            f"{path}: {data.size:,} bytes found ({whole:,} whole records and {rest:,} bytes), "
            f"{count * _RECORD_BYTES:,} expected ({count:,} records of {_RECORD_BYTES:,})",
            hint="the file is truncated or not CIFAR-10's binary version; get it again",
        )
    records = data.reshape(count, _RECORD_BYTES)
    wrong = np.flatnonzero(records[:, 0] >= len(LABELS))
    if wrong.size:
        raise DataError(
            f"{path}: record {wrong[0]:,} has label {records[wrong[0], 0]}, allowed: 0 to {len(LABELS) - 1} "
            f"({wrong.size:,} such records)",
            hint="the file is damaged or not CIFAR-10's binary version; get it again",
        )
    return records


def _split(records: npt.NDArray[np.uint8]) -> Split:
    import torch

    inputs = torch.from_numpy(records[:, 1:].reshape(-1, *_SHAPE))
    return Split(inputs.contiguous(), torch.from_numpy(records[:, 0].astype(np.int64)))
