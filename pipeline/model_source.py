"""Makes a user's model: calls the factory that a task names and loads the weights into what it returns."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.errors import TaskError
from pipeline.files import sha256

if TYPE_CHECKING:
    import torch
    from torch import nn

_NAMED = 3
_PREFIX = "module."


def make_model(factory: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """Call "package.module:function" or "/path/file.py:function" and return the module that it makes.

    Raises:
        TaskError: not importable, no such function, it raises, or what it returns is no torch.nn.Module.
    """
    from torch import nn

    place, _, name = factory.rpartition(":")
    with _importable(place):
        function = _function(_module(place, factory), name, factory)
        try:
            model = function(**kwargs)
        except (Exception, SystemExit) as fault:
            raise TaskError(f"factory {factory} raised {_brief(fault)}", hint=_line(fault)) from fault
    if not isinstance(model, nn.Module):
        raise TaskError(
            f"factory {factory} returned {type(model).__name__}, not a torch.nn.Module",
            hint="let the function return the model itself",
        )
    return model


def factory_digest(factory: str) -> str:
    """Return the SHA-256 of the file that holds the factory, so that a cache can tell when the code changed.

    Raises:
        TaskError: the factory cannot be imported.
    """
    place = factory.rpartition(":")[0]
    with _importable(place):
        file = _module(place, factory).__file__
    return sha256(Path(file)) if file else ""


def load_weights(model: nn.Module, path: Path) -> None:
    """Load a state_dict (.safetensors, or saved by torch.save) into `model`; a prefix "module." is dropped.

    Raises:
        TaskError: the file cannot be read without running code from it, holds no state_dict, or its keys or
            shapes are not the model's (which ones).
    """
    import torch

    found = {key.removeprefix(_PREFIX): value for key, value in _state_dict(path).items()}
    wanted = model.state_dict()
    for key in wanted.keys() - found.keys():
        if key.endswith(".num_batches_tracked"):  # older files lack this counter; nothing depends on it
            found[key] = torch.zeros((), dtype=torch.int64)
    faults = [
        _named("missing", sorted(wanted.keys() - found.keys())),
        _named("unexpected", sorted(found.keys() - wanted.keys())),
        _named("of another shape", list(_mis_shaped(wanted, found))),
    ]
    if any(faults):
        raise TaskError(
            f"weights {path} do not fit the model: {'; '.join(fault for fault in faults if fault)}",
            hint="the factory (or its arguments) and the weights belong to different models",
        )
    model.load_state_dict(found)


def probe(model: nn.Module, input_shape: tuple[int, ...]) -> int:
    """Run the model once on zeros (1, *input_shape) and return the number of its classes.

    Raises:
        TaskError: the model refuses the shape, or does not return one tensor of scores (1, classes).
    """
    import torch

    try:
        with torch.no_grad():
            output = model(torch.zeros(1, *input_shape))
    except Exception as fault:
        raise TaskError(
            f"input shape {list(input_shape)} is refused by the model: {_brief(fault)}",
            hint="input_shape is channels, height, width, without the batch",
        ) from fault
    if not isinstance(output, torch.Tensor) or output.ndim != 2 or len(output) != 1:
        found = list(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
        raise TaskError(f"the model returns {found} for one input; needed: one tensor of scores [1, classes]")
    return output.shape[1]


@contextmanager
def _importable(place: str) -> Iterator[None]:
    """Let the user's code import what lies beside it, or in the current folder, as when run by itself."""
    folder = str(Path(place).parent if place.endswith(".py") else Path.cwd())
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # the user's code may have removed it itself
            sys.path.remove(folder)


def _module(place: str, factory: str) -> ModuleType:
    try:
        return _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as fault:
        raise TaskError(
            f"factory {factory} cannot be imported: {_brief(fault)}",
            hint=_line(fault) or 'give "package.module:function" or "path/to/file.py:function"',
        ) from fault


def _from_file(path: Path) -> ModuleType:
    """Import a file under a name of its own, so that files called alike do not meet; once a process."""
    name = f"_factory_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _function(module: ModuleType, name: str, factory: str) -> Any:
    function = getattr(module, name, None)
    if callable(function):
        return function
    near = difflib.get_close_matches(name, [known for known in vars(module) if known[0] != "_"], n=1)
    what = "is not a function" if hasattr(module, name) else "does not exist there"
    raise TaskError(f"factory {factory}: {name} {what}", hint=f'did you mean "{near[0]}"?' if near else "")


def _state_dict(path: Path) -> dict[str, torch.Tensor]:
    import torch

    content = _content(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if isinstance(content, dict) and content:
        strings = all(isinstance(key, str) for key in content)
        if strings and all(isinstance(value, torch.Tensor) for value in content.values()):
            return dict(content)
    raise TaskError(
        f"weights {path}: no state_dict in it", hint="save them with torch.save(model.state_dict(), path)"
    )


def _content(path: Path) -> Any:
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as fault:
        raise TaskError(
            f"weights {path} cannot be read: {_brief(fault)}",
            hint="needed: .safetensors, or torch.save(model.state_dict(), path); pickled models are not read",
        ) from fault


def _mis_shaped(wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> Iterator[str]:
    for key in sorted(wanted.keys() & found.keys()):
        if wanted[key].shape != found[key].shape:
            yield f"{key}: {list(found[key].shape)} in the file, {list(wanted[key].shape)} in the model"


def _named(what: str, names: list[str]) -> str:
    if not names:
        return ""
    more = f", and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} {what} ({', '.join(names[:_NAMED])}{more})"


def _brief(fault: BaseException) -> str:
    """Return the fault's type and the first line of its message."""
    text = str(fault).strip()
    return f"{type(fault).__name__}: {text.splitlines()[0]}" if text else type(fault).__name__


def _line(fault: BaseException) -> str:
    """Say where the user's own code raised the fault."""
    frames = [frame for frame in traceback.extract_tb(fault.__traceback__) if frame.filename != __file__]
    own = [frame for frame in frames if "importlib" not in frame.filename]
    return f"at {own[-1].filename}, line {own[-1].lineno}" if own else ""
