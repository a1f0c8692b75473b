"""A training's checkpoint: one safetensors file, whole or not there, with its bookkeeping in the header.

A checkpoint belongs to one training: its fingerprint covers the recipe, the seed, the data, the starting
weights and the teacher. One of another training, or one that cannot be read, counts as none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline.files import storage_errors, write_atomically

FORMAT = 1


@dataclass(frozen=True)
class EpochRecord:
    """One finished epoch: mean loss, the last step's learning rate, validation accuracy in percent."""

    epoch: int
    loss: float
    learning_rate: float
    validation_accuracy: float


@dataclass(frozen=True)
class Standing:
    """How far a training has come; `best_epoch` 0 is the model as it was handed in."""

    best_validation: float
    best_epoch: int = 0
    history: tuple[EpochRecord, ...] = ()

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return len(self.history)


@dataclass(frozen=True)
class Checkpoint:
    """All that a training needs to go on: tensors by name, and where it stands."""

    standing: Standing
    weights: Mapping[str, Tensor]
    best: Mapping[str, Tensor]
    momentum: Mapping[str, Tensor]


def fingerprint(facts: Mapping[str, object], tensors: Mapping[str, Tensor]) -> str:
    """Return 64 hexadecimal digits that stand for plain `facts` and for every bit of `tensors`."""
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_checkpoint(path: Path, checkpoint: Checkpoint, fingerprint: str) -> None:
    """Write the checkpoint durably; a crash at any moment leaves the old one or the new one.

    Raises:
        StorageError: the disk is full or not writable; says where.
    """
    parts = {"weights": checkpoint.weights, "best": checkpoint.best, "momentum": checkpoint.momentum}
    tensors = {
        f"{part}/{name}": tensor.detach().contiguous().clone()
        for part, members in parts.items()
        for name, tensor in members.items()
    }
    standing = TypeAdapter(Standing).dump_json(checkpoint.standing).decode()
    header = {"format": str(FORMAT), "fingerprint": fingerprint, "standing": standing}
    data = save(tensors, metadata=header)
    write_atomically(path, lambda place: _write(place, data))


def _write(place: Path, data: bytes) -> None:
    place.write_bytes(data)


def load_checkpoint(path: Path, fingerprint: str) -> Checkpoint | None:
    """Return the checkpoint at `path`, or `None` if there is no readable one of this training.

    Raises:
        StorageError: the file is there, but reading it failed.
    """
    if not path.exists():
        return None
    try:
        with storage_errors(path), safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != str(FORMAT) or header.get("fingerprint") != fingerprint:
                return None
            standing = TypeAdapter(Standing).validate_json(header["standing"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValidationError):
        return None
    return Checkpoint(standing, _part(tensors, "weights"), _part(tensors, "best"), _part(tensors, "momentum"))


def _part(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    prefix = f"{part}/"
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
