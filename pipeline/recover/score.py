"""How often a model is right."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipeline.data.preprocess import Preprocess, apply
from pipeline.data.splits import Split


def accuracy(model: nn.Module, split: Split, preprocess: Preprocess, batch_size: int = 500) -> float:
    """Return the share of `split` that `model` classifies rightly, in percent.

    Scored in float32 and eval mode, whatever the model was trained in; its mode is as it was afterwards.
    `model` maps (N, C, H, W) to logits (N, classes).
    """
    training, right = model.training, 0
    model.eval()
    try:
        with torch.inference_mode():
            for inputs, targets in _batches(split, batch_size):
                right += int((model(apply(preprocess, inputs)).argmax(1) == targets).sum())
    finally:
        model.train(training)
    return 100.0 * right / len(split.targets)


def _batches(split: Split, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(torch.split(split.inputs, size), torch.split(split.targets, size), strict=True)
