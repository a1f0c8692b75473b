"""Sends files to an agent: only those it lacks, only missing bytes, several chunks under way at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.device.link import Json, Link, Pending
from pipeline.device.values import PushReport
from pipeline.errors import AgentError, InputError, TransportError
from pipeline.files import sha256

CHUNK_BYTES = 256 * 1024
WINDOW = 8  # chunks on their way
CHUNK_SILENCE_S = 120.0

OnProgress = Callable[[int, int], None]
Purpose = Literal["bundle", "measure"]


@dataclass(frozen=True)
class _Chunk:
    sha256: str
    size: int
    offset: int
    data: bytes

    @property
    def params(self) -> Json:
        return {"sha256": self.sha256, "size": self.size, "offset": self.offset}


class Sent:
    """Counts what was sent, over all the tries that an upload took, and tells how far it is."""

    def __init__(self, on_progress: OnProgress | None = None) -> None:
        self.bytes = 0
        self.skipped: int | None = None
        self._on_progress = on_progress
        self._total = 0

    def begin(self, left: int, skipped: int) -> None:
        """So many bytes are still to be sent; so many files were there already, if this is the first try."""
        self._total = self.bytes + left
        self.skipped = skipped if self.skipped is None else self.skipped

    def add(self, count: int) -> None:
        """So many more were sent and received."""
        self.bytes += count
        if self._on_progress is not None:
            self._on_progress(self.bytes, self._total)


def digests(paths: tuple[Path, ...]) -> dict[str, Path]:
    """Return the files by the SHA-256 of their content.

    Raises:
        InputError: a file cannot be read.
    """
    found = {}
    for path in paths:
        with _readable(path):
            found[sha256(path)] = path
    return found


def upload(
    link: Link, files: Mapping[str, Path], sent: Sent | None = None, purpose: Purpose = "bundle"
) -> PushReport:
    """Send what the agent lacks of `files` (by digest); an upload that broke off is resumed where it stopped.

    Args:
        link: the connection.
        files: paths by digest.
        sent: counts; the same one again for another try of the same files.
        purpose: what is sent to be measured can never become a part of a bundle.

    Raises:
        AgentError: the agent refuses (disk full, for one).
        InputError: a file was changed or removed meanwhile.
        TransportError: the link broke.
    """
    sizes = {}
    for digest, path in files.items():
        with _readable(path):
            sizes[digest] = path.stat().st_size
    sent = sent or Sent()
    before = sent.bytes
    try:
        return _send_missing(link, files, sizes, sent, purpose)
    except AgentError as error:
        # The part that was there before may have been spoiled by a power cut; the agent dropped it now.
        if error.code != "bad_digest":
            raise
        sent.bytes = before
        return _send_missing(link, files, sizes, sent, purpose)


def _send_missing(
    link: Link,
    files: Mapping[str, Path],
    sizes: Mapping[str, int],
    sent: Sent,
    purpose: Purpose,
) -> PushReport:
    wanted = [{"sha256": digest, "size": size} for digest, size in sizes.items()]
    answer = link.start("files.missing", {"files": wanted, "purpose": purpose}).result(CHUNK_SILENCE_S)
    missing = _offsets(answer, sizes)
    left = sum(sizes[digest] - offset for digest, offset in missing.items())
    sent.begin(left, len(files) - len(missing))
    under_way: deque[tuple[Pending, int]] = deque()
    try:
        for digest, offset in missing.items():
            for chunk in _chunks(files[digest], digest, sizes[digest], offset):
                params = {**chunk.params, "purpose": purpose}
                under_way.append((link.start("files.put", params, chunk.data), len(chunk.data)))
                if len(under_way) >= WINDOW:
                    _settle(under_way, sent)
        while under_way:
            _settle(under_way, sent)
    finally:
        for pending, _ in under_way:
            pending.drop()
    return PushReport(sent.bytes, sent.skipped or 0)


def _settle(under_way: deque[tuple[Pending, int]], sent: Sent) -> None:
    """Wait for the oldest chunk."""
    pending, size = under_way.popleft()
    pending.result(CHUNK_SILENCE_S)
    sent.add(size)


def _offsets(answer: Json, sizes: Mapping[str, int]) -> dict[str, int]:
    """Read the answer to `files.missing`, trusting nothing in it."""
    try:
        offsets = {str(entry["sha256"]): int(entry["offset"]) for entry in answer["missing"]}
        good = all(0 <= offset <= sizes[digest] for digest, offset in offsets.items())
    except (KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise TransportError("the agent's list of missing files is not understood")
    return offsets


def _chunks(path: Path, digest: str, size: int, offset: int) -> Iterator[_Chunk]:
    """Yield the rest of a file from `offset`: at least one chunk, empty if no byte is missing but the end."""
    with _readable(path), path.open("rb") as stream:
        stream.seek(offset)
        while True:
            data = stream.read(min(CHUNK_BYTES, size - offset))
            if not data and offset < size:
                raise InputError(f"{path} was cut short while it was sent")
            yield _Chunk(digest, size, offset, data)
            offset += len(data)
            if offset >= size:
                return


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be sent to the device: {error.strerror or error}") from error
