"""The change from one version to another: one rename, and back again if the new one does not answer."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Optional

from device_agent.durable import point, sync_folder, write_json
from device_agent.errors import RequestError
from device_agent.install import service
from device_agent.install.layout import Layout

_SECONDS = 120.0


def switch(layout: Layout, tree: str, version: str) -> None:
    """Use another version. The one before stays, and is used again if the new one does not answer.

    A note says that the new one has not answered yet, for whoever goes on after a power cut.

    Raises:
        RequestError: `not_activated`: the new one did not answer; what was there before is in use.
    """
    before = proven(layout)
    previous = layout.target_of(layout.previous)
    write_json(layout.unproven, {"tree": tree, "before": before})
    if before != tree:
        point(layout.previous, _link(before))
    point(layout.current, _link(tree))
    try:
        _start(layout, tree, version)
    except (RequestError, OSError) as error:
        back = _go_back(layout, before, previous)
        hint = getattr(error, "hint", "")
        raise RequestError("not_activated", f"{error}; {back}", hint) from error
    _forget_note(layout)


def proven(layout: Layout) -> Optional[str]:
    """Return the name of the tree that is in use and has answered; `None` if there is none."""
    try:
        before = json.loads(layout.unproven.read_text(encoding="utf-8"))["before"]
    except FileNotFoundError:
        return layout.target_of(layout.current)
    except (OSError, ValueError, KeyError, TypeError):
        before = None
    return before if isinstance(before, str) and (layout.trees / before).is_dir() else None


def _start(layout: Layout, tree: str, version: str) -> None:
    if layout.system:
        service.start(layout, layout.trees / tree, version)
        return
    done = subprocess.run(
        [str(layout.wrapper), "--version"], capture_output=True, text=True, check=False, timeout=_SECONDS
    )
    if version not in done.stdout.split():
        raise RequestError(
            "no_agent", f"{layout.wrapper} --version says {done.stdout!r} {done.stderr[-500:]!r}"
        )


def _go_back(layout: Layout, before: Optional[str], previous: Optional[str]) -> str:
    """Use what was there before; returns how that went."""
    point(layout.current, _link(before))
    point(layout.previous, _link(previous))
    try:
        if layout.system and before is None:
            service.stop(layout)
        elif layout.system:
            service.start(layout, layout.trees / str(before), "0")  # whatever it answers
    except (RequestError, OSError) as error:
        return f"going back to {before} failed, too: {error}"
    _forget_note(layout)
    return f"{before} is in use again" if before else "there was none before, so none is installed"


def _forget_note(layout: Layout) -> None:
    with contextlib.suppress(FileNotFoundError):
        layout.unproven.unlink()
    sync_folder(layout.root)


def _link(tree: Optional[str]) -> Optional[str]:
    return None if tree is None else str(Path("trees") / tree)
