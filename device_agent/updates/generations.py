"""The generations of an update's folder: which bundle is current and which one was before it.

generations/N/{current,previous}    symbolic links to bundles
active → generations/N              flipped in one rename, so both change together
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection
from pathlib import Path
from typing import Optional

from device_agent.durable import make_folder, point, remove_tree, sync_folder


def active(folder: Path) -> Optional[int]:
    """Return the number of the active generation."""
    try:
        return int(Path(os.readlink(folder / "active")).name)  # noqa: PTH115
    except (FileNotFoundError, ValueError):
        return None


def linked(folder: Path, generation: Optional[int], which: str) -> Optional[str]:
    """Return the digest of a generation's "current" or "previous" bundle."""
    try:
        return Path(os.readlink(folder / "generations" / str(generation) / which)).name  # noqa: PTH115
    except FileNotFoundError:
        return None


def build(folder: Path, generation: int, bundle: str, previous: Optional[str]) -> None:
    """Make a generation that nobody sees yet, durably."""
    place = folder / "generations" / str(generation)
    remove_tree(place)
    make_folder(place, 0o755)
    point(place / "current", f"../../bundles/{bundle}")
    if previous is not None:
        point(place / "previous", f"../../bundles/{previous}")
    sync_folder(place.parent)


def switch(folder: Path, generation: Optional[int]) -> None:
    """Make a generation the active one, in one step; `None`: none is."""
    point(folder / "active", None if generation is None else f"generations/{generation}")


def tidy(folder: Path, bundles: Collection[str]) -> None:
    """Remove every other generation and bundle, and what is half-made.

    Best effort: what a failing disk leaves lying is removed another time.
    """
    with contextlib.suppress(OSError):
        for half_made in folder.glob("*.new"):
            half_made.unlink()
        generation = str(active(folder))
        for place in (folder / "generations").iterdir():
            if place.name != generation:
                remove_tree(place)
        for place in (folder / "bundles").iterdir():
            if place.name not in bundles:
                remove_tree(place)
