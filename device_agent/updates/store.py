"""Files named by the SHA-256 of their content, with uploads that survive a broken link.

Three folders of the state folder, all on one file system:

    blobs/<sha256>       whole files that a bundle may be made of
    scratch/<sha256>     whole files that were sent to be measured; no bundle is ever made of these
    incoming/<sha256>    the part of an upload that came so far

A file gets its name in `blobs` or `scratch` only after its digest was verified and its bytes were made
durable, and is never written again. A partial upload is resumed by offset; if a power cut spoiled it, the
digest says so at its end.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Optional

from device_agent.durable import make_folder, sync_file, sync_folder
from device_agent.errors import RequestError
from device_agent.updates.digest import RunningDigests, digest_of

RESERVE_BYTES = 8 * 1024 * 1024  # never filled by uploads: the journal must always find room
MOST_UNFINISHED = 64  # uploads; the oldest are forgotten
PURPOSES = ("bundle", "measure")


def free_bytes(folder: Path) -> int:
    """Return the bytes that an ordinary user may still write where `folder` lies."""
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize


class FileStore:
    """The content-addressed files of one state folder; safe to call from several threads.

    Args:
        folder: the state folder.
        quota_bytes: most that the three folders may hold together; files that no bundle uses make room, the
            one used longest ago first. `None`: only the disk's own size counts.
        in_use: tells the digests of the files that must stay.
        free: tells the free bytes of a folder's disk.
    """

    def __init__(
        self,
        folder: Path,
        quota_bytes: Optional[int] = None,
        in_use: Callable[[], set[str]] = set,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._homes = {"bundle": folder / "blobs", "measure": folder / "scratch"}
        self._incoming = folder / "incoming"
        self._quota = quota_bytes
        self._in_use = in_use
        self._free = free
        self._lock = threading.RLock()
        self._expected: set[str] = set()
        self._running = RunningDigests()
        for part in self._homes.values():
            make_folder(part, 0o711)  # workers may be another user, and know what they look for
        make_folder(self._incoming, 0o700)

    def path(self, sha256: str, purpose: str = "bundle") -> Path:
        """Return where a whole file lies; one of a bundle may be measured, but not the other way round.

        Raises:
            RequestError: `unknown_file`.
        """
        homes = ("bundle", "measure") if purpose == "measure" else ("bundle",)
        for home in homes:
            path = self._homes[home] / sha256
            if path.is_file():
                with contextlib.suppress(OSError):
                    os.utime(path)  # the last to go when room is needed
                return path
        raise RequestError(
            "unknown_file", f"file {sha256} is not on the board", "send it with files.put first"
        )

    def expect(self, digests: Iterable[str]) -> None:
        """Let the files of the upload under way not drive each other out."""
        with self._lock:
            self._expected = set(digests)

    def has(self, sha256: str, purpose: str = "bundle") -> bool:
        """Say whether a whole, verified file is there for this purpose.

        A file that was measured and is now sent in a bundle is not sent again: its content is verified and it
        is moved. That alone activates nothing: a bundle is what a signed manifest names.
        """
        with self._lock:
            if (self._homes["bundle"] / sha256).is_file():
                return True
            measured = self._homes["measure"] / sha256
            if not measured.is_file():
                return False
            return True if purpose == "measure" else self._adopt(measured)

    def offset(self, sha256: str, size: int) -> int:
        """Return how many bytes of an unfinished upload are already there."""
        partial = self._incoming / sha256
        there = partial.stat().st_size if partial.is_file() else 0
        return there if there <= size else 0

    def put(self, sha256: str, size: int, offset: int, chunk: bytes, purpose: str = "bundle") -> int:
        """Append a chunk to an upload and finish it when it is whole; `offset` 0 starts it afresh.

        Args:
            sha256: digest that the whole file must have.
            size: bytes of the whole file.
            offset: where the chunk begins; must be where the upload stands.
            chunk: the bytes.
            purpose: "bundle" or "measure".

        Returns:
            Bytes received so far; `size` when the file is whole and durable.

        Raises:
            RequestError: `bad_offset`, `bad_request` (more bytes than `size`), `disk_full` or `over_quota`
                (what had come before is kept), `bad_digest` (the upload is dropped).
        """
        with self._lock:
            if self.has(sha256, purpose):
                return size
            there = 0 if offset == 0 else self.offset(sha256, size)
            if offset != there:
                raise RequestError(
                    "bad_offset", f"the chunk begins at {offset}, the upload stands at {there}"
                )
            if offset + len(chunk) > size:
                raise RequestError("bad_request", f"{offset + len(chunk)} bytes came of a file of {size}")
            self._make_room(size - there, keep=sha256)
            self._forget_oldest_uploads()
            self._append(self._incoming / sha256, offset, chunk)
            self._running.add(sha256, offset, chunk)
            if offset + len(chunk) == size:
                self._finish(sha256, self._homes[purpose])
            return offset + len(chunk)

    def drop(self, sha256: str) -> None:
        """Forget a file whose bytes on the disk are not what its name says, so that it is sent again."""
        with self._lock:
            for home in self._homes.values():
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(home / sha256)  # noqa: PTH108

    def collect(self, keep: Iterable[str]) -> tuple[int, int]:
        """Remove every file and unfinished upload that is neither in `keep` nor in use.

        Returns:
            How many files went, and the bytes this freed (a file that a bundle still links frees none).
        """
        with self._lock:
            kept = {*keep, *self._in_use()}
            freed = [self._remove(path) for path in self._files() if path.name not in kept]
            return len(freed), sum(freed)

    def held_bytes(self) -> int:
        """Return the bytes of all files and unfinished uploads."""
        return sum(path.stat().st_size for path in self._files())

    def _files(self) -> list[Path]:
        return [path for part in (*self._homes.values(), self._incoming) for path in part.iterdir()]

    @staticmethod
    def _remove(path: Path) -> int:
        facts = path.stat()
        os.unlink(path)  # noqa: PTH108
        return facts.st_size if facts.st_nlink == 1 else 0

    def _make_room(self, wanted: int, keep: str) -> None:
        """Let go of what is used by nobody, the oldest first, until `wanted` more bytes fit."""
        lacking = self._lacking(wanted)
        if lacking <= 0:
            return
        kept = {keep, *self._expected, *self._in_use()}
        spare = sorted(
            (path for path in self._files() if path.name not in kept), key=lambda p: p.stat().st_mtime
        )
        if lacking > sum(path.stat().st_size for path in spare):
            self._refuse(wanted)  # and lets nothing go for what does not fit anyway
        while spare and lacking > 0:
            self._remove(spare.pop(0))
            lacking = self._lacking(wanted)
        if lacking > 0:
            self._refuse(wanted)

    def _forget_oldest_uploads(self) -> None:
        begun = sorted(self._incoming.iterdir(), key=lambda path: path.lstat().st_mtime)
        for path in begun[:-MOST_UNFINISHED]:
            os.unlink(path)  # noqa: PTH108

    def _lacking(self, wanted: int) -> int:
        over_disk = wanted + RESERVE_BYTES - self._free(self._incoming)
        over_quota = 0 if self._quota is None else wanted + self.held_bytes() - self._quota
        return max(over_disk, over_quota)

    def _refuse(self, wanted: int) -> None:
        if self._quota is not None and wanted + self.held_bytes() > self._quota:
            raise RequestError(
                "over_quota",
                f"{wanted} bytes are to come; {self.held_bytes()} of the {self._quota} allowed are taken",
                "raise the agent's --quota-mb, or send a smaller bundle",
            )
        raise RequestError(
            "disk_full",
            f"{wanted} bytes are to come; {self._free(self._incoming)} are free on the board, "
            f"{RESERVE_BYTES} of them reserved",
            "free some space on the board",
        )

    @staticmethod
    def _append(path: Path, offset: int, chunk: bytes) -> None:
        """Write at the upload's end; a chunk that does not fit is taken back, so that one can go on later."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | (0 if offset else os.O_TRUNC)
        with os.fdopen(os.open(path, flags, 0o600), "wb", buffering=0) as stream:
            stream.seek(offset)
            try:
                left = memoryview(chunk)
                while left:
                    left = left[stream.write(left) or 0 :]
            except OSError:
                with contextlib.suppress(OSError):
                    stream.truncate(offset)
                raise

    def _finish(self, sha256: str, home: Path) -> None:
        partial = self._incoming / sha256
        partial.chmod(0o444)
        sync_file(partial)
        found = self._running.end(sha256) or digest_of(partial)
        if found != sha256:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(partial)  # noqa: PTH108
            raise RequestError(
                "bad_digest", f"the file was to be {sha256} and came as {found}", "send it again"
            )
        os.replace(partial, home / sha256)  # noqa: PTH105
        sync_folder(home)
        sync_folder(self._incoming)

    def _adopt(self, measured: Path) -> bool:
        """Move a measured file to where bundles are made of, verified once more; False if it is spoiled."""
        if digest_of(measured) != measured.name:
            os.unlink(measured)  # noqa: PTH108
            return False
        home = self._homes["bundle"]
        os.replace(measured, home / measured.name)  # noqa: PTH105
        sync_folder(home)
        sync_folder(measured.parent)
        return True
