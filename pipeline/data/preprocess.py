"""From stored values to what the model wants to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Preprocess:
    """x = (raw * scale - mean) / std; `mean` and `std` hold one value for all channels, or one for each."""

    scale: float = 1.0
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)


def apply(preprocess: Preprocess, raw: torch.Tensor) -> torch.Tensor:
    """Return the model's input, float32 (N, C, H, W), for stored values of any type and the same shape."""
    import torch

    mean = torch.tensor(preprocess.mean, device=raw.device).view(1, -1, 1, 1)
    std = torch.tensor(preprocess.std, device=raw.device).view(1, -1, 1, 1)
    return (raw.to(torch.float32) * preprocess.scale - mean) / std
