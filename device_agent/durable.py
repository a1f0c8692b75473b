"""The few file operations that must survive a power cut: each is done whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Replace a file by a JSON object; after a crash it holds either the old object or the new."""
    temporary = path.with_name(path.name + ".new")
    with temporary.open("w", encoding="utf-8") as stream:
        json.dump(record, stream, sort_keys=True, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)  # noqa: PTH105 - one spelling of the operation, so that tests can cut it short
    sync_folder(path.parent)


def point(link: Path, target: str | None) -> None:
    """Make a symbolic link point at `target` in one step, or take it away when there is no target."""
    temporary = link.with_name(link.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    if target is None:
        with contextlib.suppress(FileNotFoundError):
            link.unlink()
    else:
        os.symlink(target, temporary)  # noqa: PTH211
        os.replace(temporary, link)  # noqa: PTH105
    sync_folder(link.parent)


def remove_tree(folder: Path) -> None:
    """Take a folder away, if it is there."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder)
