"""The few file operations that must survive a power cut: each is done whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any, Optional

FULL = (errno.ENOSPC, errno.EDQUOT)
_RESERVE = "reserve"
_RESERVE_BYTES = 64 * 1024


def no_link(path: str, flags: int) -> int:
    """Open a file for `open`, but not through a symbolic link that somebody put in its place."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def sync_file(path: Path) -> None:
    """Make a file's content durable."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


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
    try:
        with open(temporary, "w", encoding="utf-8", opener=no_link) as stream:
            json.dump(record, stream, sort_keys=True, indent=1)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - one spelling of the operation, so that tests can cut it short
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)  # noqa: PTH108
        raise
    sync_folder(path.parent)


def point(link: Path, target: Optional[str]) -> None:
    """Make a symbolic link point at `target` in one step, or take it away when there is no target."""
    temporary = link.with_name(link.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)  # noqa: PTH108
    if target is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link)  # noqa: PTH108
    else:
        os.symlink(target, temporary)  # noqa: PTH211
        os.replace(temporary, link)  # noqa: PTH105
    sync_folder(link.parent)


def make_folder(folder: Path, mode: int) -> None:
    """Make a folder, if it is not there, with these rights whatever the umask is; a link to one is refused."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "a link instead of a folder", str(folder))
    if folder.stat().st_mode & 0o777 != mode:
        with contextlib.suppress(OSError):  # a disk that became read-only is still to be read
            folder.chmod(mode)


def remove_tree(folder: Path) -> None:
    """Take a folder away, if it is there; links in it are removed, never followed."""
    if folder.is_symlink():
        os.unlink(folder)  # noqa: PTH108
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            remove_tree(Path(entry.path))
        else:
            os.unlink(entry.path)  # noqa: PTH108
    os.rmdir(folder)  # noqa: PTH106


@contextlib.contextmanager
def room_from_reserve(folder: Path) -> Any:
    """Let what must not fail for want of space use a few blocks that `keep_reserve` put aside."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / _RESERVE)  # noqa: PTH108
    try:
        yield
    finally:
        keep_reserve(folder)


def keep_reserve(folder: Path) -> None:
    """Put a few blocks aside, so that going back to the old model works on a disk that others have filled."""
    path = folder / _RESERVE
    try:
        if path.is_symlink():
            os.unlink(path)  # noqa: PTH108
        if path.stat().st_size == _RESERVE_BYTES:
            return
    except FileNotFoundError:
        pass
    try:
        with open(path, "wb", opener=no_link) as stream:
            stream.write(b"\0" * _RESERVE_BYTES)
    except OSError as error:
        if error.errno not in FULL:
            raise
        with contextlib.suppress(OSError):
            os.unlink(path)  # noqa: PTH108
