"""ONNX files for ONNX Runtime: one self-contained file, batch norms folded, nothing of the host in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from google.protobuf.message import EncodeError, Message  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.export import ExportedProgram

from pipeline.convert.capture import capture, quiet, refusal
from pipeline.errors import ModelError
from pipeline.files import write_atomically

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 18
_NOTES = frozenset({"metadata_props", "doc_string", "value_info"})


class OnnxConverter:
    """Writes `.onnx` files with torch's own exporter, whose optimizer folds batch norms into convolutions."""

    runtime = "onnxruntime"
    suffix = ".onnx"

    def convert(self, model: nn.Module, example_input: Tensor, path: Path) -> None:
        """See `Converter.convert`."""
        proto = _translate(capture(model, example_input))
        strip_notes(proto)
        try:
            data = proto.SerializeToString(deterministic=True)
        except (EncodeError, ValueError) as error:
            raise ModelError("the model is larger than the 2 GB that one ONNX file can hold") from error
        write_atomically(path, lambda temporary: _write(temporary, data))


def strip_notes(message: Message) -> None:
    """Drop notes for human readers from a protobuf message and all it contains.

    These are stack traces with the host's paths and source lines, and the shapes of intermediate values,
    which a runtime infers itself. They can be a large part of a small model's file.
    """
    for field, value in message.ListFields():
        if field.name in _NOTES:
            message.ClearField(field.name)
        elif field.message_type is not None:
            for part in value if field.is_repeated else (value,):
                strip_notes(part)


def _translate(program: ExportedProgram) -> ModelProto:
    with quiet():
        try:
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                opset_version=OPSET,
                optimize=True,
                verbose=False,
                input_names=["input"],
                output_names=["output"],
            )
            proto: ModelProto = exported.model_proto  # type: ignore[union-attr]
        except Exception as error:
            raise refusal(error, "ONNX") from error
    return proto


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
