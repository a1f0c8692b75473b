"""Does the converted file compute what the PyTorch model computes? Asked on the host, on real inputs."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import InputError, ModelError
from pipeline.host_runtime import runner

# Float32 files reach 110 to 140 dB (they differ in the order of sums); below 60 dB, an error of 0.1 % of the
# output's own size, something other than rounding is at work.
MIN_SQNR_DB = 60.0
MIN_SAME_CLASS = 0.99


@dataclass(frozen=True)
class Agreement:
    """How close a file's outputs are to the model's, over all samples.

    `max_rel_error` is `max_abs_error` over the largest magnitude that the model gave. `sqnr_db` is the ratio
    of the output's power to the error's power, in decibels (capped at 300 where there is no error).
    `same_class` is the share of samples with the same largest output, `None` where the output is not a row of
    scores.
    """

    max_abs_error: float
    max_rel_error: float
    sqnr_db: float
    samples: int
    same_class: float | None = None


def validate(
    path: Path, runtime: str, model: nn.Module, inputs: Tensor, min_sqnr_db: float = MIN_SQNR_DB
) -> Agreement:
    """Run the file on every input and compare with `model` in eval mode and float32.

    Args:
        path: the converted file.
        runtime: "onnxruntime" or "tflite".
        model: the model it was converted from; left as it is.
        inputs: real, preprocessed inputs, shape (N, C, H, W), N ≥ 1.
        min_sqnr_db: the signal-to-error ratio that is asked for, in decibels; `HALF_MIN_SQNR_DB` for a file whose
            weights were stored as float16.

    Raises:
        ModelError: the signal-to-error ratio is below `min_sqnr_db`, more than one sample and more than 1 %
            of them fall into another class, an output is not finite, or the runtime refuses the file.
        InputError: the runtime is unknown or not installed here.
    """
    if len(inputs) == 0:
        raise InputError("validating a converted file needs at least one input")
    samples = inputs.detach().to("cpu", torch.float32)
    expected = _reference(model, samples)
    run = runner(path, runtime)
    actual = np.concatenate([run(sample[None].numpy()) for sample in samples])
    if actual.shape != expected.shape:
        raise ModelError(
            f"{path.name} gives outputs of shape {actual.shape[1:]}, the model of {expected.shape[1:]}"
        )
    agreement = compare(expected, actual)
    _require_close(agreement, path, min_sqnr_db)
    return agreement


def compare(expected: NDArray[np.float32], actual: NDArray[np.float32]) -> Agreement:
    """Compare two stacks of outputs, shape (N, ...)."""
    wanted = expected.astype(np.float64)
    error = actual.astype(np.float64) - wanted
    if not (np.isfinite(wanted).all() and np.isfinite(error).all()):
        raise ModelError("the outputs hold NaN or infinity", hint="check the model's weights and its inputs")
    worst, largest = float(np.abs(error).max()), float(np.abs(wanted).max())
    same = None
    if expected.ndim == 2 and expected.shape[1] > 1:
        same = float((expected.argmax(1) == actual.argmax(1)).mean())
    return Agreement(worst, worst / max(largest, 1e-30), _decibels(wanted, error), len(expected), same)


def _decibels(signal: NDArray[np.float64], error: NDArray[np.float64]) -> float:
    power, noise = float((signal**2).sum()), float((error**2).sum())
    if noise == 0.0:
        return 300.0
    return min(300.0, 10 * math.log10(max(power, 1e-300) / noise))


def _require_close(agreement: Agreement, path: Path, min_sqnr_db: float) -> None:
    differing = 0.0 if agreement.same_class is None else (1 - agreement.same_class) * agreement.samples
    allowed = max(1.0, (1 - MIN_SAME_CLASS) * agreement.samples)
    if agreement.sqnr_db >= min_sqnr_db and differing <= allowed + 0.5:
        return
    raise ModelError(
        f"{path.name} does not compute what the PyTorch model computes: signal-to-error ratio "
        f"{agreement.sqnr_db:.1f} dB (at least {min_sqnr_db:.0f} expected), largest error "
        f"{agreement.max_abs_error:.3g}, {differing:.0f} of {agreement.samples} samples in another class",
        hint="a model that is random or behaves differently in eval mode cannot be converted",
    )


def _reference(model: nn.Module, samples: Tensor) -> NDArray[np.float32]:
    twin = copy.deepcopy(model).to("cpu", torch.float32).eval()
    with torch.no_grad():
        outputs = [twin(batch) for batch in torch.split(samples, 64)]
    return np.asarray(torch.cat(outputs).numpy(), dtype=np.float32)
