"""What both converters do first: capture a copy of the model as one graph, without a word on the terminal."""

from __future__ import annotations

import copy
import io
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pipeline.convert.shortcuts import with_convolved_shortcuts
from pipeline.errors import ModelError

# How the exporters name an operator that they cannot translate.
_OPERATOR = (
    re.compile(r"OpOverload\(op='([\w.:]+)'"),
    re.compile(r"Lowering not found: ([\w.:]+)"),
    re.compile(r"target=torch\.ops\.([\w.]+)\]"),
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def capture(model: nn.Module, example_input: Tensor) -> ExportedProgram:
    """Return the graph of `model` in eval mode and float32, for inputs of the example's shape.

    The model itself is not touched.

    Raises:
        ModelError: the model does not run on the example, does not return one float tensor with a batch of
            one, or its computation depends on the values of its input.
    """
    example = example_input.detach().to("cpu", torch.float32).contiguous()
    if example.ndim == 0 or example.shape[0] != 1:
        raise ModelError(f"the example input has the shape {tuple(example.shape)}, which is no batch of one")
    twin = _twin(model)
    _check_output(twin, example)
    with quiet():
        try:
            return with_convolved_shortcuts(torch.export.export(twin, (example,), strict=False))
        except Exception as error:
            raise ModelError(
                f"the model cannot be captured as one graph: {_first_line(error)}",
                hint="its forward must not branch on the values of its input or leave PyTorch",
            ) from error


def refusal(error: BaseException, form: str) -> ModelError:
    """Say in our words what an exporter could not translate to `form` ("ONNX"), naming the operator."""
    for cause in _causes(error):
        for pattern in _OPERATOR:
            if found := pattern.search(str(cause)):
                name = found.group(1).replace("::", ".").removesuffix(".default")
                return ModelError(
                    f"{form} has no translation of the operator {name}",
                    hint="replace it in the model by operators of common networks, or choose another runtime",
                )
    return ModelError(f"the model cannot be converted to {form}: {_first_line(_causes(error)[-1])}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Python's warnings, log records and prints off the terminal while an exporter runs."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def _twin(model: nn.Module) -> nn.Module:
    """Copy a model to the CPU, as float32 with contiguous tensors, in eval mode."""
    try:
        twin = copy.deepcopy(model)
    except Exception as error:
        raise ModelError(f"the model cannot be copied: {_first_line(error)}") from error
    twin = twin.to("cpu", torch.float32).eval()
    for tensor in (*twin.parameters(), *twin.buffers()):
        tensor.data = tensor.detach().contiguous()
    return twin


def _check_output(model: nn.Module, example: Tensor) -> None:
    try:
        with torch.no_grad():
            output = model(example)
    except Exception as error:
        raise ModelError(
            f"the model does not run on an input of shape {tuple(example.shape)}: {_first_line(error)}"
        ) from error
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.shape[:1] != (1,):
        raise ModelError("the model must return one float tensor whose first dimension is the batch")


def _causes(error: BaseException) -> list[BaseException]:
    causes: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in causes:
        causes.append(current)
        current = current.__cause__ or current.__context__
    return causes


def _first_line(error: BaseException) -> str:
    lines = _COLOUR.sub("", str(error)).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]
