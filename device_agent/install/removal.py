"""Takes an installation away again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from device_agent.durable import remove_tree
from device_agent.install import accounts, service
from device_agent.install.layout import Layout
from device_agent.install.step import Step


def steps(layout: Layout, *, purge: bool) -> Iterator[Step]:
    """Yield what is left to be removed; with `purge`, the state, the settings and the users, too."""
    if layout.system and layout.unit.exists():
        yield Step("stop the service and remove its unit file", partial(service.stop, layout))
    if layout.wrapper.exists():
        yield Step(f"remove {layout.wrapper}", partial(_unlink, layout.wrapper))
    if _has_versions(layout):
        yield Step(f"remove {layout.root} with all versions", partial(_remove_root, layout.root))
    if not purge:
        return
    for folder in (layout.state, layout.settings) if layout.system else (layout.state,):
        if folder.exists():
            yield Step(f"remove {folder}", partial(remove_tree, folder))
    if layout.system and any(map(accounts.is_user, accounts.USERS)):
        yield Step("remove the agent's users and groups", accounts.remove)


def _has_versions(layout: Layout) -> bool:
    """Say whether there is more than the lock's own note and an empty folder of uploads."""
    return layout.root.is_dir() and not {path.name for path in layout.root.iterdir()} <= {"lock", "incoming"}


def _remove_root(root: Path) -> None:
    """Remove the folder, the links first, so that nothing starts any more; that it is locked does no harm."""
    for link in [path for path in root.iterdir() if path.is_symlink()]:
        _unlink(link)
    remove_tree(root)


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
