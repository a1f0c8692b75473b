"""A checkpoint file is whole, belongs to one training, and says where the disk refused it."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pipeline.errors import StorageError
from pipeline.recover.checkpoint import (
    Checkpoint,
    EpochRecord,
    Standing,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
)

HISTORY = (EpochRecord(1, 0.1 + 0.2, 1 / 3, 91.73),)
WEIGHTS = {"conv.weight": torch.randn(3, 2, 3, 3), "bn.num_batches_tracked": torch.tensor(7)}
MOMENTUM = {"conv.weight": torch.randn(3, 2, 3, 3).to(memory_format=torch.channels_last)}
CHECKPOINT = Checkpoint(Standing(91.73, 1, HISTORY), WEIGHTS, WEIGHTS, MOMENTUM)


def test_everything_comes_back_to_the_bit(tmp_path: Path) -> None:
    path = tmp_path / "run" / "c.safetensors"
    save_checkpoint(path, CHECKPOINT, "abc")
    loaded = load_checkpoint(path, "abc")
    assert loaded is not None
    assert loaded.standing == CHECKPOINT.standing
    assert torch.equal(loaded.momentum["conv.weight"], MOMENTUM["conv.weight"])
    assert torch.equal(loaded.weights["bn.num_batches_tracked"], torch.tensor(7))
    assert [file.name for file in path.parent.iterdir()] == ["c.safetensors"]


def test_none_is_there_or_it_is_another_training_s(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    assert load_checkpoint(path, "abc") is None
    save_checkpoint(path, CHECKPOINT, "abc")
    assert load_checkpoint(path, "xyz") is None


def test_a_fingerprint_depends_on_facts_names_shapes_and_bits() -> None:
    one = torch.zeros(2, 3)
    prints = [
        fingerprint({"seed": 1}, {"w": one}),
        fingerprint({"seed": 2}, {"w": one}),
        fingerprint({"seed": 1}, {"v": one}),
        fingerprint({"seed": 1}, {"w": one.reshape(3, 2)}),
        fingerprint({"seed": 1}, {"w": -one}),
    ]
    assert len(set(prints)) == 5
    assert prints[0] == fingerprint({"seed": 1}, {"w": one.clone()})


FILL = """
import sys
from pathlib import Path
import torch
from pipeline.recover.checkpoint import Checkpoint, Standing, save_checkpoint
big = {"w": torch.zeros(100_000)}
save_checkpoint(Path(sys.argv[1]), Checkpoint(Standing(1.0), big, big, big), "new")
"""


def test_a_full_disk_is_an_error_with_the_place_and_the_old_file_stays(tmp_path: Path) -> None:
    """The kernel's limit on file size stands in for the full disk: the write fails half-way all the same."""
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, CHECKPOINT, "abc")
    done = subprocess.run(
        [sys.executable, "-c", FILL, str(path)],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"StorageError: no space left while writing {path}" in done.stderr
    assert load_checkpoint(path, "abc") is not None
    assert [file.name for file in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"file/c\.safetensors"):
        save_checkpoint(tmp_path / "file" / "c.safetensors", CHECKPOINT, "abc")
