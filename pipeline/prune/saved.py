"""A slimmed model on disk without pickle: the factory of the whole one, the plan, the weights.

FOLDER/model.json           format, factory and its arguments, modes, digests of the other two
FOLDER/plan.json            what goes
FOLDER/weights.safetensors  every parameter and buffer, once
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.files import sha256, storage_errors
from pipeline.model_source import make_model
from pipeline.prune.plan import SlimmingPlan, model_digest
from pipeline.prune.slim import SlimmingWarning, slim

FORMAT = 1
Factory = str | Callable[..., nn.Module] | tuple[str | Callable[..., nn.Module], Mapping[str, Any]]
_MODEL, _PLAN, _WEIGHTS = "model.json", "plan.json", "weights.safetensors"


@dataclass(frozen=True)
class _Saved:
    """What model.json says. `other_mode` names modules whose train/eval mode is not the model's."""

    format: int
    factory: str
    arguments: dict[str, Any]
    training: bool
    other_mode: list[str]
    without_grad: list[str]
    plan_sha256: str
    weights_sha256: str


def save(path: str | Path, factory: Factory, plan: SlimmingPlan, model: nn.Module) -> None:
    """Write a slimmed model to the folder `path`, whole or not at all; a model saved there before is replaced.

    Args:
        path: a folder that does not exist yet, or that `save` wrote.
        factory: what makes the model before slimming: "package.module:function", "file.py:function", a function
            that can be imported, or a pair of it and its keyword arguments (JSON values).
        plan: the plan that `model` was slimmed with.
        model: the slimmed model.

    Raises:
        ModelError: the factory cannot be named or gives another model than the plan's, the model was not slimmed
            with this plan, or `path` holds something else.
        TaskError: the factory cannot be imported, or raises.
        StorageError: the disk is full or the folder cannot be written.
    """
    target, (name, arguments) = Path(path), _named(factory)
    whole = make_model(name, arguments)
    if model_digest(whole) != plan.model_digest:
        raise ModelError(
            f"factory {name} gives another model than the plan is for",
            hint="give the factory and the arguments that made the traced model",
        )
    tensors = _tensors(model)
    _check_slimmed(tensors, plan)
    if target.exists() and not (target / _MODEL).is_file():
        raise ModelError(
            f"{target} exists and is no saved model", hint="give a folder that does not exist yet"
        )
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            made.mkdir()
            _write(made, name, arguments, plan, model, tensors)
            _swap(made, target)
        finally:
            shutil.rmtree(made, ignore_errors=True)


def load(path: str | Path) -> nn.Module:
    """Return the slimmed model in a folder that `save` wrote, on the CPU; it gives the same outputs bit for bit.

    Raises:
        ModelError: the folder is no saved model, something in it is damaged or does not fit.
        TaskError: the factory cannot be imported, or raises.
    """
    folder = Path(path)
    saved = _read(folder)
    plan = SlimmingPlan.from_json(_checked(folder / _PLAN, saved.plan_sha256).decode())
    _checked(folder / _WEIGHTS, saved.weights_sha256)
    whole = make_model(saved.factory, saved.arguments)
    whole.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlimmingWarning)
        model = slim(whole, plan)
    _fill(model, _loaded(folder / _WEIGHTS), folder)
    model.train(saved.training)
    modules, parameters = dict(model.named_modules()), dict(model.named_parameters())
    for name in saved.other_mode:
        modules[name].training = not saved.training
    for name, parameter in parameters.items():
        parameter.requires_grad_(name not in saved.without_grad)
    return model


# --- writing ---


def _named(factory: Factory) -> tuple[str, dict[str, Any]]:
    """Return a factory's importable name and its arguments."""
    arguments: dict[str, Any] = {}
    if isinstance(factory, tuple):
        factory, given = factory
        arguments = dict(given)
    while isinstance(factory, functools.partial) and not factory.args:
        arguments = {**factory.keywords, **arguments}
        factory = factory.func
    if isinstance(factory, str):
        name = factory
    else:
        module, function = getattr(factory, "__module__", ""), getattr(factory, "__qualname__", "")
        if not module or not function.isidentifier() or module == "__main__":
            raise ModelError(
                f"factory {function or factory!r} of {module or 'nowhere'} cannot be imported by name",
                hint='write it as a function at the top of a file and give "path/to/file.py:function"',
            )
        name = f"{module}:{function}"
    try:
        json.dumps(arguments)
    except (TypeError, ValueError) as error:
        raise ModelError(f"arguments of factory {name} are no JSON values: {error}") from error
    return name, arguments


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return every parameter and buffer once, under its first name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _check_slimmed(tensors: Mapping[str, Tensor], plan: SlimmingPlan) -> None:
    for name, dims in plan.slices.items():
        for dim, kept in dims.items():
            if name not in tensors or tensors[name].shape[dim] != len(kept):
                raise ModelError(
                    f"the model was not slimmed with this plan: {name} should have {len(kept)} entries along {dim}",
                    hint="save(path, factory, plan, slim(model, plan))",
                )


def _write(
    folder: Path,
    name: str,
    arguments: dict[str, Any],
    plan: SlimmingPlan,
    model: nn.Module,
    tensors: Mapping[str, Tensor],
) -> None:
    (folder / _PLAN).write_text(plan.to_json(), encoding="utf-8")
    save_file(
        {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}, folder / _WEIGHTS
    )
    modes = [path for path, module in model.named_modules() if module.training != model.training]
    still = [key for key, parameter in model.named_parameters() if not parameter.requires_grad]
    digests = sha256(folder / _PLAN), sha256(folder / _WEIGHTS)
    saved = _Saved(FORMAT, name, arguments, model.training, modes, still, *digests)
    (folder / _MODEL).write_bytes(TypeAdapter(_Saved).dump_json(saved, indent=2))
    for file in folder.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())


def _swap(made: Path, target: Path) -> None:
    """Put a finished folder in its place; what was there goes only afterwards."""
    before = target.with_name(f".{target.name}.{os.getpid()}.old")
    if target.exists():
        target.rename(before)
    made.rename(target)
    shutil.rmtree(before, ignore_errors=True)


# --- reading ---


def _read(folder: Path) -> _Saved:
    try:
        saved = TypeAdapter(_Saved).validate_json((folder / _MODEL).read_bytes())
    except OSError as error:
        raise ModelError(
            f"{folder} is no saved model: {error.strerror}", hint="give a folder that `save` wrote"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        raise ModelError(f"{folder / _MODEL} is damaged: {first['msg']}") from error
    if saved.format != FORMAT:
        raise ModelError(
            f"{folder} has format {saved.format}; this program reads {FORMAT}",
            hint="update it, or save again",
        )
    return saved


def _checked(file: Path, digest: str) -> bytes:
    try:
        found = sha256(file)
        content = file.read_bytes() if file.name == _PLAN else b""
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror}") from error
    if found != digest:
        raise ModelError(f"{file} is damaged: it is not what was saved", hint="copy the whole folder again")
    return content


def _loaded(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file} is damaged: {error}") from error


def _fill(model: nn.Module, saved: Mapping[str, Tensor], folder: Path) -> None:
    tensors = _tensors(model)
    unlike = sorted(
        name
        for name in tensors.keys() | saved.keys()
        if name not in tensors or name not in saved or tensors[name].shape != saved[name].shape
    )
    if unlike:
        raise ModelError(
            f"the weights in {folder} do not fit what its factory and plan give: {unlike[0]}",
            hint="the factory's code has changed since; use the version that the model was saved with",
        )
    for name, tensor in tensors.items():
        tensor.data = saved[name]
