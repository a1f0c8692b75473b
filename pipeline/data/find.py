"""Finds data sets and weights: a task names them, a search path says where they may be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import InputError

VARIABLE = "PIPELINE_DATA"


def find(
    name: str,
    what: str,
    error: type[InputError],
    *,
    beside: Path,
    extra: Path | None = None,
    inside: str = "",
    mark: str = "",
) -> Path:
    """Return the absolute path of a file or folder.

    Looked for in this order: `name` itself if absolute, in `extra` (the --data option), in the folder
    `beside` (the task file's), in each folder of PIPELINE_DATA.

    Args:
        name: as the task file says it; absolute, or relative to any of those folders.
        what: what it is, for the message ("data", "weights").
        error: what to raise.
        beside: the folder of the task file.
        extra: a folder that is searched first.
        inside: a subfolder of each folder that is searched too ("pretrained").
        mark: a folder that holds a file of this name is taken to be the one that was looked for.

    Raises:
        error: nothing there; it lists where it looked and what to do.
    """
    path = Path(name).expanduser()
    seen_from_here = _candidates(path, extra, beside, inside, mark)
    candidates = [path] if path.is_absolute() else list(dict.fromkeys(seen_from_here))
    for candidate in candidates:
        if candidate.exists():
            return candidate.absolute()
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise error(
        f"{what} {name}: not found; looked for {looked}",
        hint=f"set {VARIABLE} to the folder that contains it, or give the folder with --data",
    )


def _candidates(path: Path, extra: Path | None, beside: Path, inside: str, mark: str) -> Iterator[Path]:
    for root in _roots(extra, beside):
        yield root / path
        if inside:
            yield root / inside / path
        if root.resolve().name == path.name or (mark and (root / mark).is_file()):
            yield root


def _roots(extra: Path | None, beside: Path) -> Iterator[Path]:
    if extra is not None:
        yield extra.expanduser()
    yield beside
    for folder in os.environ.get(VARIABLE, "").split(os.pathsep):
        if folder:
            yield Path(folder).expanduser()
