"""Finds the profiles and examples that ship with the program.

In an installed wheel they lie inside the package (`_shipped/`), in a source tree beside it.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Literal

Kind = Literal["profiles", "examples"]


def shipped_folder(kind: Kind) -> Path:
    """Return the folder of the shipped profiles or examples."""
    package = Path(str(files("pipeline")))
    installed = package / "_shipped" / kind
    return installed if installed.is_dir() else package.parent / kind


def shipped_names(kind: Kind) -> tuple[str, ...]:
    """Return the names (without ".toml") of what ships, sorted."""
    return tuple(sorted(path.stem for path in shipped_folder(kind).glob("*.toml")))


def shipped_file(kind: Kind, name: str) -> Path | None:
    """Return the shipped TOML file called `name`, with or without ".toml"; None if there is none."""
    stem = name.removesuffix(".toml")
    return shipped_folder(kind) / f"{stem}.toml" if stem in shipped_names(kind) else None
