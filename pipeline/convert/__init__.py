"""From a PyTorch model to the one file that a board's runtime loads.

    converter(runtime).convert(model, example_input, path)      write the file
    store_half(path, runtime)                                   its weights as float16: half the file
    validate(path, runtime, model, inputs)                      compare its answers with the model's

A converted file has a fixed batch of one, float32 input "input" and float32 output "output". The same model
gives the same bytes, in every process, and nothing of the host (paths, source lines) is in them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from pipeline.convert.half import HALF_MIN_SQNR_DB, store_half
from pipeline.convert.onnx import OnnxConverter
from pipeline.convert.tflite import TfliteConverter
from pipeline.convert.validate import MIN_SQNR_DB, Agreement, validate
from pipeline.errors import InputError

__all__ = [
    "HALF_MIN_SQNR_DB",
    "MIN_SQNR_DB",
    "Agreement",
    "Converter",
    "OnnxConverter",
    "TfliteConverter",
    "converter",
    "store_half",
    "validate",
]


class Converter(Protocol):
    """Writes models for one runtime: `runtime` is its name in profiles, `suffix` the ending of its files."""

    @property
    def runtime(self) -> str: ...  # noqa: D102

    @property
    def suffix(self) -> str: ...  # noqa: D102

    def convert(self, model: nn.Module, example_input: Tensor, path: Path) -> None:
        """Write `model`, as it computes in eval mode and float32, to `path`, all or nothing.

        Args:
            model: left as it is, its train/eval mode, device and dtype included.
            example_input: shape (1, C, H, W), or another shape with a batch of one; its values do not count.
            path: the file to write; an old one is replaced at once, never half.

        Raises:
            ModelError: the model cannot be captured, or has an operator that the runtime's format lacks.
            InputError: the converter's package is not installed.
            StorageError: the disk is full or not writable.
        """


_CONVERTERS: tuple[Converter, ...] = (OnnxConverter(), TfliteConverter())


def converter(runtime: str) -> Converter:
    """Return the converter for a runtime, "onnxruntime" or "tflite".

    Raises:
        InputError: no converter writes files for this runtime.
    """
    for known in _CONVERTERS:
        if known.runtime == runtime:
            return known
    names = ", ".join(known.runtime for known in _CONVERTERS)
    raise InputError(f"no converter for the runtime {runtime!r}", hint=f"known runtimes: {names}")
