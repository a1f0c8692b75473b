"""The active model, for the application on the board; needs neither the agent's daemon nor any package.

    import device_agent

    model = device_agent.active_model()
    session = onnxruntime.InferenceSession(model.path)
    for model in device_agent.watch():      # the present one first, then every other that becomes active
        …

A model's files stay where they are, whole, while it is the active one or the one before.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

DEFAULT_STATE = Path("/var/lib/device-agent")
STATE_VARIABLE = "DEVICE_AGENT_STATE"
_TRIES = 20


class ActiveModel(NamedTuple):
    """One generation: the model's file, its bundle's folder and manifest."""

    generation: int
    bundle: str
    folder: Path
    path: Path
    manifest: Mapping[str, Any]


def active_model(state: Union[str, Path, None] = None) -> Optional[ActiveModel]:
    """Return the active model, or `None` while there is none.

    Args:
        state: the agent's state folder; by default $DEVICE_AGENT_STATE, else /var/lib/device-agent.

    Raises:
        OSError: the folder may not be read, or the disk spoiled the manifest.
    """
    found = read_active(state_folder(state))
    if found["generation"] is None:
        return None
    folder = Path(found["folder"])
    return ActiveModel(found["generation"], found["bundle"], folder, Path(found["path"]), found["manifest"])


def watch(state: Union[str, Path, None] = None, interval_s: float = 1.0) -> Iterator[Optional[ActiveModel]]:
    """Yield the active model now, and again whenever another generation became the active one.

    It looks at one symbolic link every `interval_s` seconds, which costs microseconds and needs no daemon.
    """
    known: object = object()
    while True:
        model = active_model(state)
        generation = model.generation if model else None
        if generation != known:
            known = generation
            yield model
        time.sleep(interval_s)


def state_folder(state: Union[str, Path, None]) -> Path:
    """Return the state folder that is meant: the given one, the environment's, or the system's."""
    return Path(state or os.environ.get(STATE_VARIABLE) or DEFAULT_STATE).expanduser()


def read_active(state: Path) -> dict[str, Any]:
    """Return generation, bundle, folder, path and manifest of the active model, all `None` without one."""
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):  # it was replaced twice between two looks
            return _read(state)
    raise FileNotFoundError(f"{state}: the active model changes too fast to be read")


def _read(state: Path) -> dict[str, Any]:
    try:
        generation = os.readlink(state / "active")  # noqa: PTH115
    except FileNotFoundError:
        return dict.fromkeys(("generation", "bundle", "folder", "path", "manifest"))
    bundle = Path(os.readlink(state / generation / "current")).name  # noqa: PTH115
    folder = state / "bundles" / bundle
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
    except ValueError as error:
        raise OSError(f"the manifest of {folder} is spoiled: {error}") from error
    return {
        "generation": int(Path(generation).name),
        "bundle": bundle,
        "folder": str(folder),
        "path": str(folder / manifest["model"]["file"]),
        "manifest": manifest,
    }
