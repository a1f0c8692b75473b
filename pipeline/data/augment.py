"""Random changes to training images, a whole batch at once.

The generator that is handed in decides everything. Works on stored values, before preprocessing: the border
that moves in is black.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from pipeline.recipe import Augmentation

_CROP_PADDING = 4
_SHIFT_PADDING = 1


def augment(kind: Augmentation, batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a changed copy of `batch` (N, C, H, W), or `batch` itself for "none".

    "crop-flip": padded by 4 pixels, cropped back at random, mirrored left to right with probability one half
    (He et al. 2016, Deep Residual Learning, section 4.2). "shift": moved by up to one pixel
    along both axes.
    """
    if kind == "crop-flip":
        return mirror_half(shift(batch, _CROP_PADDING, generator), generator)
    if kind == "shift":
        return shift(batch, _SHIFT_PADDING, generator)
    return batch


def shift(batch: torch.Tensor, reach: int, generator: torch.Generator) -> torch.Tensor:
    """Move each image by up to `reach` pixels along both axes; zeros move in."""
    count, _, height, width = batch.shape
    padded = functional.pad(batch, (reach, reach, reach, reach))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view: (N, C, 2r+1, 2r+1, H, W)
    down, right = torch.randint(0, 2 * reach + 1, (2, count), generator=generator)
    return windows[torch.arange(count), :, down, right]


def mirror_half(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image left to right with probability one half."""
    chosen = torch.rand(len(batch), generator=generator) < 0.5
    return torch.where(chosen.view(-1, 1, 1, 1), batch.flip(-1), batch)
