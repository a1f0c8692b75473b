"""The files of a simulated board by their digests, on a disk of a given size."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from device_agent.errors import RequestError
from device_agent.updates.store import RESERVE_BYTES


@dataclass
class Stored:
    """A whole file: what it was sent for ("bundle" or "measure"), and when it was used last, as a rank."""

    content: bytes
    purpose: str
    used: int


class Disk:
    """Whole files and the beginnings of unfinished uploads.

    Args:
        size_bytes: of the disk.
        quota_bytes: most that all files may take together; `None`: what the disk has.
        in_use: tells the digests of the files that must stay.
    """

    def __init__(
        self, size_bytes: int, quota_bytes: int | None = None, in_use: Callable[[], set[str]] = set
    ) -> None:
        self._size = size_bytes
        self._quota = quota_bytes
        self._in_use = in_use
        self._ranks = itertools.count()
        self._expected: set[str] = set()
        self._whole: dict[str, Stored] = {}
        self._parts: dict[str, Stored] = {}

    def read(self, sha256: str, purpose: str = "bundle") -> bytes:
        """Return a file; one of a bundle may be measured, but not the other way round.

        Raises:
            RequestError: `unknown_file`.
        """
        found = self._whole.get(sha256)
        if found is None or (purpose == "bundle" and found.purpose == "measure"):
            raise RequestError("unknown_file", f"file {sha256} is not on the board", "send it first")
        found.used = next(self._ranks)
        return found.content

    def expect(self, digests: Iterable[str]) -> None:
        """Let the files of the upload under way not drive each other out."""
        self._expected = set(digests)

    def has(self, sha256: str, purpose: str = "bundle") -> bool:
        """Say whether a file is there; one that was measured and is now wanted in a bundle is moved."""
        found = self._whole.get(sha256)
        if found is not None and purpose == "bundle" and found.purpose == "measure":
            self._whole[sha256] = Stored(found.content, "bundle", next(self._ranks))
        return found is not None

    def offset(self, sha256: str, size: int) -> int:
        """Return how many bytes of an unfinished upload are there."""
        there = len(self._part(sha256))
        return there if there <= size else 0

    def put(self, sha256: str, size: int, offset: int, chunk: bytes, purpose: str = "bundle") -> int:
        """Append a chunk to an upload and return how many bytes of it are there.

        Raises:
            RequestError: `bad_offset`, `bad_request`, `disk_full`, `over_quota`, `bad_digest`.
        """
        if self.has(sha256, purpose):
            return size
        there = self.offset(sha256, size) if offset else 0
        if offset != there:
            raise RequestError("bad_offset", f"the chunk begins at {offset}, the upload stands at {there}")
        if offset + len(chunk) > size:
            raise RequestError("bad_request", f"{offset + len(chunk)} bytes came of a file of {size}")
        self._make_room(size - there, keep=sha256)
        content = self._part(sha256)[:offset] + chunk
        self._parts[sha256] = Stored(content, purpose, next(self._ranks))
        if len(content) == size:
            self._finish(sha256)
        return len(content)

    def spoil_parts(self) -> None:
        """Do to the unfinished uploads what a power cut may do to them."""
        for part in self._parts.values():
            part.content = bytes(len(part.content))

    def collect(self, keep: Iterable[str]) -> tuple[int, int]:
        """Remove what is neither in `keep` nor in use; return how many files that were, and their bytes."""
        kept = {*keep, *self._in_use()}
        gone = [sha256 for sha256 in (*self._whole, *self._parts) if sha256 not in kept]
        return len(gone), sum(self._remove(sha256) for sha256 in gone)

    def free_bytes(self) -> int:
        """Return the bytes that are not taken."""
        return self._size - self.held_bytes()

    def held_bytes(self) -> int:
        """Return the bytes of all files and unfinished uploads."""
        return sum(len(each.content) for each in (*self._whole.values(), *self._parts.values()))

    def _part(self, sha256: str) -> bytes:
        return self._parts[sha256].content if sha256 in self._parts else b""

    def _finish(self, sha256: str) -> None:
        part = self._parts.pop(sha256)
        found = hashlib.sha256(part.content).hexdigest()
        if found != sha256:
            raise RequestError(
                "bad_digest", f"the file was to be {sha256} and came as {found}", "send it again"
            )
        self._whole[sha256] = part

    def _remove(self, sha256: str) -> int:
        return len((self._whole.pop(sha256, None) or self._parts.pop(sha256)).content)

    def _make_room(self, wanted: int, keep: str) -> None:
        """Let go of what nobody uses, the oldest first, until `wanted` more bytes fit."""
        kept = {keep, *self._expected, *self._in_use()}
        spare = {
            sha256: each for sha256, each in {**self._whole, **self._parts}.items() if sha256 not in kept
        }
        let_go = sum(len(each.content) for each in spare.values())
        oldest_first = sorted(spare, key=lambda sha256: spare[sha256].used)
        if self._over_disk(wanted - let_go) or self._over_quota(wanted - let_go):
            oldest_first = []  # it would not fit anyway
        while oldest_first and (self._over_disk(wanted) or self._over_quota(wanted)):
            self._remove(oldest_first.pop(0))
        if self._over_quota(wanted):
            raise RequestError("over_quota", f"{wanted} bytes are to come; {self._quota} are allowed")
        if self._over_disk(wanted):
            raise RequestError("disk_full", f"{wanted} bytes are to come; {self.free_bytes()} are free")

    def _over_disk(self, wanted: int) -> bool:
        return wanted + RESERVE_BYTES > self.free_bytes()

    def _over_quota(self, wanted: int) -> bool:
        return self._quota is not None and wanted + self.held_bytes() > self._quota
