"""Puts one version together: the agent's package, and links to the wheels that it uses."""

from __future__ import annotations

import os
import py_compile
from collections.abc import Iterable
from importlib import util
from pathlib import Path

from device_agent.durable import make_folder, remove_tree
from device_agent.errors import RequestError
from device_agent.install import archive
from device_agent.install.layout import Layout
from device_agent.install.target import Target

PACKAGE, LIB = "device_agent", "lib"


def build(layout: Layout, target: Target, package: Path) -> None:
    """Make `trees/<tree>`, whole and durable before it has its name.

    Args:
        layout: the places.
        target: what to build; its wheels are unpacked.
        package: zip file with the agent's package.

    Raises:
        RequestError: `bad_input`: two wheels have an entry of the same name.
        OSError: the disk cannot be written.
    """
    folder = layout.trees / target.tree
    partial = layout.trees / f".{target.tree}.new"
    archive.unpack(package, partial)
    make_folder(partial / LIB, 0o755)
    for wheel in target.wheels:
        for entry in sorted(os.listdir(layout.wheels / wheel.folder)):  # noqa: PTH208
            link = partial / LIB / entry
            if link.is_symlink():
                remove_tree(partial)
                raise RequestError("bad_input", f"two wheels have an entry {entry!r}, {wheel.name} is one")
            link.symlink_to(Path("../../..") / layout.wheels.name / wheel.folder / entry)
    archive.settle(partial, folder)


def wheels_of(tree: Path) -> set[str]:
    """Return the names of the wheels' folders that a tree uses."""
    links = [entry for entry in (tree / LIB).glob("*") if entry.is_symlink()]
    return {Path(os.readlink(link)).parent.name for link in links}  # noqa: PTH115


def compile_all(layout: Layout, tree: Path, imported: Iterable[str]) -> None:
    """Compile what is imported: the agent's users may not write beside it, and each start would compile it again.

    Args:
        layout: the places; nothing outside its trees and wheels is touched.
        tree: all of its own package is compiled.
        imported: files that were imported when the tree was tried.
    """
    homes = (layout.wheels.resolve(), tree.resolve())
    paths = [*(tree / PACKAGE).rglob("*.py"), *(Path(each).resolve() for each in imported)]
    for path in paths:
        if path.suffix == ".py" and any(home in path.parents for home in homes) and not _is_compiled(path):
            try:
                py_compile.compile(str(path), doraise=True)
            except (py_compile.PyCompileError, OSError):  # it starts a little slower, no more
                continue


def _is_compiled(path: Path) -> bool:
    try:
        return Path(util.cache_from_source(str(path))).stat().st_mtime >= path.stat().st_mtime
    except OSError:
        return False
