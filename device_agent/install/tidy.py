"""Takes away what no version needs that is in use or was before."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from device_agent.durable import remove_tree
from device_agent.install import switch
from device_agent.install.layout import Layout
from device_agent.install.tree import wheels_of


def spare(layout: Layout, keep: Iterable[str] = ()) -> list[Path]:
    """Return the folders of trees and wheels that nothing needs, and what an interrupted installation left."""
    links = (layout.target_of(layout.current), layout.target_of(layout.previous), switch.proven(layout))
    trees = {name for name in (*links, *keep) if name is not None}
    wheels = {wheel for name in trees for wheel in wheels_of(layout.trees / name)}
    places = ((layout.trees, trees), (layout.wheels, wheels))
    return [folder / name for folder, kept in places for name in _names(folder) if name not in kept]


def begun(layout: Layout) -> list[Path]:
    """Return what an interrupted installation left half done."""
    return [
        folder / name for folder in (layout.trees, layout.wheels) for name in _names(folder) if name[0] == "."
    ]


def remove(folders: Iterable[Path]) -> None:
    """Remove folders; each loses its name first, so that half of one is never taken for a whole."""
    for folder in folders:
        gone = folder if folder.name.startswith(".") else folder.with_name(f".{folder.name}.old")
        if gone != folder:
            remove_tree(gone)
            os.replace(folder, gone)  # noqa: PTH105
        remove_tree(gone)


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208
    except FileNotFoundError:
        return []
