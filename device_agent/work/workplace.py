"""The one folder that a worker may write to: made for it, and removed after it whatever is in there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Optional

from device_agent.durable import make_folder
from device_agent.errors import RequestError
from device_agent.work import offspring

_LEAST_FREE_BYTES = 4 * 1024 * 1024
_BYTES_OF_AN_INODE = 4096
_LONGEST_S = 60.0
_MOST_NAMES = 1000  # held in memory at a time


class Workplace:
    """One worker's folder below `parent`, while a `with` block runs.

    Args:
        parent: a folder of the agent's that holds nothing else; made if need be.
        identity: the worker's user as `worker_user.find` returns it.
    """

    def __init__(self, parent: Path, identity: Optional[dict[str, Any]] = None) -> None:
        self.path = parent / os.urandom(8).hex()
        self._identity = identity
        self._floor = 0

    def __enter__(self) -> Workplace:
        parent = self.path.parent
        make_folder(parent, 0o711)  # for a worker's own user to pass, and nobody to see the others' names
        self.path.mkdir(mode=0o700)
        if self._identity is not None:
            self._give_away(self._identity)
        self._floor = min(_LEAST_FREE_BYTES, self._free() // 2)
        return self

    def __exit__(self, *_: object) -> None:
        remove(self.path, self._identity)

    def require_room(self) -> None:
        """Raise `disk_full` when the worker left the agent hardly any room to write."""
        if self._free() < self._floor:
            raise RequestError(
                "disk_full", "the board's disk ran full while the worker ran", "free some space on the board"
            )

    def _give_away(self, identity: dict[str, Any]) -> None:
        try:
            os.chown(self.path, identity["user"], identity["group"])
        except PermissionError:  # without CAP_CHOWN: nobody else knows its name
            self.path.chmod(0o777)

    def _free(self) -> int:
        """Return the free bytes, or what the free inodes stand for if that is less."""
        facts = os.statvfs(self.path)
        free = facts.f_bavail * facts.f_frsize
        return min(free, facts.f_favail * _BYTES_OF_AN_INODE) if facts.f_files else free


def clear(parent: Path, identity: Optional[dict[str, Any]] = None) -> None:
    """Remove what workers left whose agent was killed."""
    if parent.is_dir() and not parent.is_symlink():
        for left in parent.iterdir():
            remove(left, identity)


def remove(folder: Path, identity: Optional[dict[str, Any]] = None) -> None:
    """Remove a folder that a hostile program filled; whatever cannot be removed stays.

    Folders that the program made belong to its user. An agent that may not look into them has a program of
    that user remove them.
    """
    _remove(folder)
    if identity is None or not folder.is_dir():
        return
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with contextlib.suppress(OSError):
        command = [sys.executable, "-m", "device_agent.work.workplace", str(folder)]
        helper = offspring.start(command, cwd="/", env=environment, **identity)
        with contextlib.suppress(subprocess.TimeoutExpired):
            helper.wait(_LONGEST_S)
        offspring.end(helper)
    _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, as far as this process may.

    Folders in it are moved up before they are emptied, so neither their depth nor the length of their paths
    matters; no symbolic link is followed.
    """
    with contextlib.suppress(OSError):
        if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            folder.chmod(0o700)
        top = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            _empty(top)
        finally:
            os.close(top)
        folder.rmdir()


def _empty(top: int) -> None:
    token, moved = os.urandom(8).hex(), 0
    while names := _folders(top):
        for name in names:
            with contextlib.suppress(OSError):
                os.chmod(name, 0o700, dir_fd=top)
            folder = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=top)
            try:
                while deeper := _folders(folder):
                    for each in deeper:
                        moved += 1
                        os.rename(each, f"{token}-{moved}", src_dir_fd=folder, dst_dir_fd=top)
            finally:
                os.close(folder)
            os.rmdir(name, dir_fd=top)


def _folders(folder: int) -> list[str]:
    """Remove all that is no folder from a folder; return the names of the folders in it, some if there are many."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=folder)
            if len(found) == _MOST_NAMES:
                break
    return found


if __name__ == "__main__":
    _remove(Path(sys.argv[1]))
