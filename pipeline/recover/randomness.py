"""Where random draws come from: a generator named after its seed and its purpose, never the global one."""

from __future__ import annotations

import hashlib

import torch


def seed_of(*names: object) -> int:
    """Return a 63-bit seed that depends on all of `names` and on nothing else."""
    digest = hashlib.sha256(repr(names).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*names: object) -> torch.Generator:
    """Return a fresh generator for one purpose, such as `generator(seed, "order", epoch)`."""
    return torch.Generator().manual_seed(seed_of(*names))
