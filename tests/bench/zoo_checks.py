"""What a slimmed model must show: it runs, it trains, and it exports."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from zoo_models import Inputs


class CheckError(Exception):
    """A check did not pass."""


class DenseError(Exception):
    """The dense model cannot do what was asked of the slimmed one either."""


def require(holds: bool, otherwise: str) -> None:
    """Raise CheckError unless `holds`."""
    if not holds:
        raise CheckError(otherwise)


def count_parameters(model: nn.Module) -> int:
    """Return the number of weights; tied ones count once."""
    return sum(one.numel() for one in model.parameters())


def outputs_of(result: Any) -> list[Tensor]:
    """Return the tensors of a model's result, however it packs them."""
    return list(_tensors(result))


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, dict):
        for one in result.values():
            yield from _tensors(one)
    elif isinstance(result, list | tuple):
        for one in result:
            yield from _tensors(one)


def largest_difference(found: list[Tensor], wanted: list[Tensor]) -> float:
    """Return the largest difference relative to the largest wanted value, over all tensors."""
    worst = 0.0
    for one, other in zip(found, wanted, strict=True):
        require(one.shape == other.shape, f"shape {tuple(one.shape)}, not {tuple(other.shape)}")
        require(bool(one.isfinite().all()), "outputs that are not finite")
        scale = float(other.abs().max()) or 1.0
        worst = max(worst, float((one - other).abs().max()) / scale)
    return worst


def training_step(model: nn.Module, inputs: Callable[[int], Inputs], graph_form: bool) -> dict[str, Any]:
    """Do one SGD step on random targets; return how many parameters moved.

    A batch of two; a graph module may have the traced batch of one baked in, then that is taken.

    Raises:
        CheckError: a gradient or parameter is not finite, or fewer than half of the parameters move.
    """
    try:
        return {"batch": 2, **_step(model, inputs(2))}
    except (RuntimeError, ValueError):
        if not graph_form:
            raise
        return {"batch": 1, **_step(model, inputs(1))}


def _step(model: nn.Module, inputs: Inputs) -> dict[str, int]:
    trained = copy.deepcopy(model).train()
    before = [one.detach().clone() for one in trained.parameters()]
    optimiser = torch.optim.SGD(trained.parameters(), lr=1e-2)
    loss = torch.zeros(())
    for one in outputs_of(trained(*inputs)):
        scaled = one / (one.detach().abs().max() + 1e-6)
        loss = loss + (scaled - torch.randn_like(scaled)).square().mean()
    require(bool(loss.isfinite()), "the loss is not finite")
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    after = list(trained.parameters())
    require(all(bool(one.isfinite().all()) for one in after), "a parameter is not finite after the step")
    moved = sum(not torch.equal(old, new) for old, new in zip(before, after, strict=True))
    require(moved >= len(after) / 2, f"only {moved} of {len(after)} parameters moved")
    return {"moved": moved, "parameters": len(after)}


def onnx_difference(slimmed: nn.Module, dense: nn.Module, inputs: Inputs) -> tuple[str, float]:
    """Export to ONNX, run, and return the exporter's name and the largest difference from PyTorch.

    Raises:
        DenseError: neither exporter does the dense model any better.
        CheckError: the dense model exports, the slimmed one does not, or answers differ by more than 1e-3.
    """
    faults = []
    for exporter in ("torchscript", "dynamo"):
        try:
            difference = _onnx_against_torch(slimmed, inputs, exporter)
            require(difference <= 1e-3, f"onnxruntime differs by {difference:.1e}")
            return exporter, difference
        except Exception as error:  # noqa: BLE001 - exporters fail in every way
            faults.append(f"{exporter}: {type(error).__name__}: {str(error).strip()[:300]}")
    for exporter in ("torchscript", "dynamo"):
        try:
            difference = _onnx_against_torch(dense, inputs, exporter)
        except Exception:  # noqa: BLE001, S112
            continue
        if difference <= 1e-3:
            raise CheckError("; ".join(faults) + f"; the dense model exports with {exporter}")
    raise DenseError("; ".join(faults))


def _onnx_against_torch(model: nn.Module, inputs: Inputs, exporter: str) -> float:
    import onnxruntime

    exported = copy.deepcopy(model).eval()
    with torch.no_grad():
        wanted = outputs_of(exported(*inputs))
    with warnings.catch_warnings():  # not without gradients: fused attention kernels have no ONNX form
        warnings.simplefilter("ignore")
        content = _onnx_file(exported, inputs, exporter)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    fed = {slot.name: one.numpy() for slot, one in zip(session.get_inputs(), inputs, strict=True)}
    found = [torch.from_numpy(np.array(one)) for one in session.run(None, fed)]
    return largest_difference(found, wanted)


def _onnx_file(model: nn.Module, inputs: Inputs, exporter: str) -> bytes:
    file = io.BytesIO()
    if exporter == "torchscript":
        torch.onnx.export(model, inputs, file, dynamo=False, opset_version=18)
    else:
        program = torch.onnx.export(model, inputs, dynamo=True, verbose=False)
        assert program is not None
        file.write(program.model_proto.SerializeToString())
    return file.getvalue()
