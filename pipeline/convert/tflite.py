"""TFLite files for LiteRT (TensorFlow Lite), by way of litert-torch, an optional and heavy dependency."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from pipeline.convert.capture import capture, quiet, refusal
from pipeline.errors import InputError
from pipeline.files import write_atomically
from pipeline.host_runtime import mute

IDENTIFIER = b"TFL3"


class TfliteConverter:
    """Writes `.tflite` files. The input stays channel-first, as the PyTorch model has it."""

    runtime = "tflite"
    suffix = ".tflite"

    def convert(self, model: nn.Module, example_input: Tensor, path: Path) -> None:
        """See `Converter.convert`."""
        with silent():
            litert_torch = _litert_torch()
        program = capture(model, example_input)
        data = short_names(_translate(litert_torch, program))
        write_atomically(path, lambda temporary: _write(temporary, data))


def short_names(data: bytes) -> bytes:
    """Rename the tensors of a TFLite file: "input", "output", and a short name for the rest.

    The converter names a tensor after the Python classes of every module it went through, which for a small
    model is a noticeable part of the file (18 of 1104 kB for ResNet-20).
    """
    model = unpacked(data)
    for graph in model.subgraphs:
        for index, tensor in enumerate(graph.tensors):
            tensor.name = f"t{index}"
        for kind, indices in (("input", graph.inputs), ("output", graph.outputs)):
            graph.tensors[indices[0]].name = kind
    for signature in model.signatureDefs or ():
        signature.inputs[0].name, signature.outputs[0].name = "input", "output"
    return packed(model)


def unpacked(data: bytes) -> Any:
    """Return a file's content as objects that can be changed (`ModelT` of the format's schema)."""
    return schema().ModelT.InitFromPackedBuf(data, 0)


def packed(model: Any) -> bytes:
    """Return the file of such objects; the same objects give the same bytes."""
    from flatbuffers import Builder

    builder = Builder(1024)
    builder.Finish(model.Pack(builder), IDENTIFIER)
    return bytes(builder.Output())


def schema() -> ModuleType:
    """Return the classes of the TFLite file format.

    Raises:
        InputError: the package that has them is not installed.
    """
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise InputError(
            "TFLite files need ai-edge-litert, which is not installed",
            hint="pip install edge-pipeline[tflite]",
        ) from error
    module: ModuleType = schema_py_generated
    return module


@contextmanager
def silent() -> Iterator[None]:
    """Keep everything off the terminal, also what C++ code writes to the descriptors of stdout and stderr.

    Meanwhile nothing else in this process can write there either.
    """
    with mute(), quiet():
        yield


def _litert_torch() -> Any:
    try:
        import litert_torch
    except ImportError as error:
        raise InputError(
            "writing TFLite files needs litert-torch, which is not installed",
            hint="pip install edge-pipeline[tflite]",
        ) from error
    return litert_torch


def _translate(litert_torch: Any, program: ExportedProgram) -> bytes:
    example = program.example_inputs[0]
    with silent():
        try:
            converted = litert_torch.convert(program.module(), example)
            return bytes(converted.model_content())
        except Exception as error:
            raise refusal(error, "TFLite") from error


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
