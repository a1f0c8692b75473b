"""Files by content: `blobs/<sha256>` whole and verified, `incoming/<sha256>` on their way.

A blob appears under its name only after its digest was checked and its bytes were made durable, and is never
written again. A partial upload survives the agent and is resumed by offset; if a power cut spoiled it, the
digest says so at its end.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from device_agent.durable import sync_folder
from device_agent.errors import RequestError

RESERVE_BYTES = 8 * 1024 * 1024  # never filled by uploads: the journal must always find room
_CHUNK = 1024 * 1024


def free_bytes(folder: Path) -> int:
    """Return the bytes that an ordinary user may still write where `folder` lies."""
    return shutil.disk_usage(folder).free


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


class FileStore:
    """The content-addressed files of one state folder; safe to call from several threads."""

    def __init__(self, folder: Path, free: Callable[[Path], int] = free_bytes) -> None:
        self._blobs = folder / "blobs"
        self._incoming = folder / "incoming"
        self._free = free
        self._lock = threading.Lock()
        for part in (self._blobs, self._incoming):
            part.mkdir(parents=True, exist_ok=True)

    def path(self, sha256: str) -> Path:
        """Return where a whole file lies.

        Raises:
            RequestError: `unknown_file`.
        """
        path = self._blobs / sha256
        if not path.is_file():
            raise RequestError(
                "unknown_file", f"file {sha256} is not on the board", "send it with files.put first"
            )
        return path

    def has(self, sha256: str) -> bool:
        """Say whether a whole, verified file is there."""
        return (self._blobs / sha256).is_file()

    def offset(self, sha256: str, size: int) -> int:
        """Return how many bytes of an unfinished upload are already there."""
        partial = self._incoming / sha256
        there = partial.stat().st_size if partial.is_file() else 0
        return there if there <= size else 0

    def put(self, sha256: str, size: int, offset: int, chunk: bytes) -> int:
        """Append a chunk to an upload and finish it when it is whole; `offset` 0 starts it afresh.

        Args:
            sha256: digest that the whole file must have.
            size: bytes of the whole file.
            offset: where the chunk begins; must be where the upload stands.
            chunk: the bytes.

        Returns:
            Bytes received so far; `size` when the file is whole and durable.

        Raises:
            RequestError: `bad_offset`, `bad_request` (more bytes than `size`), `disk_full` (what had come
                before is kept), `bad_digest` (the upload is dropped).
        """
        with self._lock:
            if self.has(sha256):
                return size
            there = 0 if offset == 0 else self.offset(sha256, size)
            if offset != there:
                raise RequestError(
                    "bad_offset", f"the chunk begins at {offset}, the upload stands at {there}"
                )
            if offset + len(chunk) > size:
                raise RequestError("bad_request", f"{offset + len(chunk)} bytes came of a file of {size}")
            self._check_space(size - there)
            self._append(self._incoming / sha256, offset, chunk)
            if offset + len(chunk) == size:
                self._finish(sha256)
            return offset + len(chunk)

    def collect(self, keep: Iterable[str]) -> tuple[int, int]:
        """Remove every file and unfinished upload that is not in `keep`.

        Returns:
            How many files went, and the bytes this freed (a file that a bundle still links frees none).
        """
        kept = set(keep)
        removed = freed = 0
        with self._lock:
            for path in [*self._blobs.iterdir(), *self._incoming.iterdir()]:
                if path.name in kept:
                    continue
                facts = path.stat()
                path.unlink()
                removed += 1
                freed += facts.st_size if facts.st_nlink == 1 else 0
        return removed, freed

    def _check_space(self, wanted: int) -> None:
        free = self._free(self._incoming)
        if free < wanted + RESERVE_BYTES:
            raise RequestError(
                "disk_full",
                f"{wanted} bytes are to come; {free} are free on the board, {RESERVE_BYTES} of them reserved",
                "free some space on the board, or let files.collect remove what is not needed",
            )

    @staticmethod
    def _append(path: Path, offset: int, chunk: bytes) -> None:
        """Write at the upload's end; a chunk that does not fit is taken back, so that one can go on later."""
        with path.open("r+b" if offset else "wb", buffering=0) as stream:
            stream.seek(offset)
            try:
                left = memoryview(chunk)
                while left:
                    left = left[stream.write(left) :]
            except OSError:
                stream.truncate(offset)
                raise

    def _finish(self, sha256: str) -> None:
        partial = self._incoming / sha256
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())
        found = digest_of(partial)
        if found != sha256:
            with contextlib.suppress(FileNotFoundError):
                partial.unlink()
            raise RequestError(
                "bad_digest", f"the file was to be {sha256} and came as {found}", "send it again"
            )
        partial.chmod(0o444)
        os.replace(partial, self._blobs / sha256)  # noqa: PTH105
        sync_folder(self._blobs)
        sync_folder(self._incoming)
