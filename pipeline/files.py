"""Writing files so that a reader sees the whole old one or the whole new one, whatever dies in between."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.errors import StorageError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def storage_errors(where: Path) -> Iterator[None]:
    """Turn what a disk can refuse into a `StorageError` that names the place and the way out."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, where) from error


def storage_error(error: OSError, where: Path) -> StorageError:
    """Say in our words why `where` could not be written."""
    if error.errno in _FULL:
        return StorageError(f"no space left while writing {where}", hint="free some space and try again")
    if error.errno in _DENIED:
        return StorageError(
            f"not allowed to write {where}", hint="check its permissions, or set XDG_STATE_HOME"
        )
    return StorageError(f"cannot write {where}: {error.strerror or error}")


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Let `write` fill a temporary neighbour of `path`, make it durable, then rename it into place.

    Raises:
        StorageError: the disk is full or the folder cannot be written; `path` is as it was before.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            write(temporary)
            _sync(temporary)
            temporary.replace(path)
            _sync(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, all or nothing."""
    write_atomically(path, lambda temporary: _write(temporary, text.encode()))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256(path: Path) -> str:
    """Return the file's SHA-256 as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
