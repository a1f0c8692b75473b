"""Capture of a model by `torch.export`, with clear words where that fails."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from pipeline.errors import ModelError
from pipeline.prune.copies import copied

_GIVE = "give what the model is called with, for example torch.zeros(1, 3, 32, 32)"


def export(model: nn.Module, inputs: tuple[Tensor, ...]) -> ExportedProgram:
    """Return a model as `torch.export` sees it, with the shapes of these inputs; the model should be in eval mode.

    Raises:
        ModelError: the inputs do not fit, the model does not run on them, or it cannot be captured.
    """
    _check_inputs(model, inputs)
    fast_attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator for a whole layer shows nothing
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(model, inputs, strict=False)
    except Exception as error:
        _check_runs(copied(model), inputs)
        raise ModelError(
            f"{type(model).__name__} cannot be captured: {_summary(error)}",
            hint="forward must not branch on tensor values or leave PyTorch; torch.export says more",
        ) from error
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_attention)


def _check_inputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    name = type(model).__name__
    if not inputs or not all(isinstance(one, Tensor) for one in inputs):
        raise ModelError(f"example inputs for {name} must be one tensor or a tuple of tensors", hint=_GIVE)
    for place, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ModelError(
                f"{place} of {name} is on the meta device: it has no values to choose by",
                hint="build the model on a real device, or move it there with to_empty and load its weights",
            )


def _check_runs(model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Tell a model that does not even run on these inputs from one that cannot be captured."""
    name = type(model).__name__
    try:
        with torch.no_grad():
            model(*inputs)
    except Exception as error:
        shapes = ", ".join(str(tuple(one.shape)) for one in inputs)
        raise ModelError(f"{name} does not run on inputs {shapes}: {_summary(error)}", hint=_GIVE) from error


def _summary(error: Exception) -> str:
    """Return the first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
