"""CIFAR-10's binary layout."""

from pathlib import Path

import numpy as np
import pytest

from pipeline.data import cifar10
from pipeline.errors import DataError

RECORDS = 7


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for name in (*cifar10.TRAIN_FILES, cifar10.TEST_FILE):
        records = generator.integers(0, 256, (RECORDS, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        records.tofile(tmp_path / name)
    return tmp_path


def test_records_become_planes_of_red_green_blue(folder: Path) -> None:
    train, test = cifar10.load(folder, RECORDS)
    assert tuple(train.inputs.shape) == (5 * RECORDS, 3, 32, 32)
    record = (folder / "data_batch_2.bin").read_bytes()[3073 : 2 * 3073]
    assert train.targets[RECORDS + 1] == record[0]
    assert train.inputs[RECORDS + 1, 0, 0, 1] == record[2]
    assert train.inputs[RECORDS + 1, 2, 31, 31] == record[3072]
    assert len(test) == RECORDS


def test_a_truncated_file_is_named_with_found_and_expected_bytes(folder: Path) -> None:
    path = folder / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError) as caught:
        cifar10.load(folder, RECORDS)
    assert str(path) in caught.value.message
    assert "21,411 bytes found (6 whole records and 2,973 bytes)" in caught.value.message
    assert "21,511 expected" in caught.value.message


def test_a_file_of_fewer_whole_records_is_truncated_too(folder: Path) -> None:
    with pytest.raises(DataError, match=r"30,730,000 expected \(10,000 records"):
        cifar10.load(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "test_batch.bin").unlink()
    with pytest.raises(DataError, match=r"test_batch\.bin: cannot be read"):
        cifar10.load(folder, RECORDS)


def test_a_label_above_nine_is_refused(folder: Path) -> None:
    path = folder / "data_batch_1.bin"
    data = bytearray(path.read_bytes())
    data[2 * 3073] = 77
    path.write_bytes(data)
    with pytest.raises(DataError, match="record 2 has label 77"):
        cifar10.load(folder, RECORDS)
