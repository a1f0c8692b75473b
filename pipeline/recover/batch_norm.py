"""Batch-norm recalibration: what a slimmed network gets back without any training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.data.preprocess import Preprocess, apply
from pipeline.data.splits import Split
from pipeline.recover.randomness import generator


def recalibrate_batch_norm(
    model: nn.Module,
    *,
    split: Split,
    preprocess: Preprocess,
    seed: int,
    batches: int = 40,
    batch_size: int = 128,
) -> None:
    """Measure every batch norm's running mean and variance anew, in place; no parameter changes.

    The statistics are plain averages over `batches` random batches of `split`, the same ones for the same
    seed (post-statistics of Yu and Huang 2019, Universally Slimmable Networks, section 3.4). A model without
    batch norms is left as it is. Training modes are as they were afterwards.
    """
    norms = [
        module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    if not norms:
        return
    order = torch.randperm(len(split.targets), generator=generator(seed, "batch norm"))
    size = min(batch_size, len(order))
    chosen = order[: min(batches, len(order) // size) * size]
    with _collecting(model, norms), torch.no_grad():
        for indices in torch.split(chosen, size):
            model(apply(preprocess, split.inputs[indices]))


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Let every batch norm take the mean and variance of the batch at hand; what it remembers stays as it is.

    A network that was cut can so be scored in one pass, without recalibrating it on other examples first. All else is
    in eval mode meanwhile.
    """
    norms = [
        module for module in model.modules() if isinstance(module, _BatchNorm) and module.track_running_stats
    ]
    modes = {module: module.training for module in model.modules()}
    model.eval()
    for norm in norms:
        norm.training, norm.track_running_stats = True, False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def _collecting(model: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    """Let only the batch norms be in training mode, averaging over all that they see from now on."""
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's way of saying: the cumulative average
        norm.training = True
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes.items():
            module.training = mode
