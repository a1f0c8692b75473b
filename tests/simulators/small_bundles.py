"""Bundles of a few bytes, for boards on which nothing is really run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.device.client import DeviceClient


def sha256(data: bytes) -> str:
    """Return a digest in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def bundle_files(name: str, sequence: int = 0, *, size_off_by: int = 0, **model: Any) -> dict[str, bytes]:
    """Return the files of a bundle by their digests, its manifest last."""
    files = {part: f"{part} of {name}".encode() for part in ("model.onnx", "in.npy", "out.npy")}
    named = {part: {"sha256": sha256(data), "size": len(data) + size_off_by} for part, data in files.items()}
    tolerance = {"rtol": 1e-3, "atol": 1e-3}
    document = {
        "format": 1,
        "name": name,
        "sequence": sequence,
        "model": {"file": "model.onnx", "runtime": "onnxruntime", "threads": 1, **model},
        "files": named,
        "golden": {"inputs": ["in.npy"], "outputs": ["out.npy"], "tolerance": tolerance},
    }
    return {sha256(data): data for data in (*files.values(), json.dumps(document).encode())}


def pushed(device: DeviceClient, folder: Path, name: str, sequence: int = 0, **model: Any) -> str:
    """Push a bundle and return its digest."""
    files = bundle_files(name, sequence, **model)
    paths = [folder / digest for digest in files]
    for path in paths:
        path.write_bytes(files[path.name])
    device.push(paths)
    return paths[-1].name


def checked(device: DeviceClient, folder: Path, name: str, sequence: int = 0, **model: Any) -> str:
    """Push and stage a bundle, have it checked, and return its digest."""
    digest = pushed(device, folder, name, sequence, **model)
    device.stage(digest)
    assert device.check(digest).ok
    return digest
