"""The two kinds of byte stream that requests come by: a socket, and a pair of pipes."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from typing import BinaryIO, Optional, Protocol

STALL_S = 30.0  # a peer that says nothing in the middle of a frame, or does not take its answers
FRAME_S = 600.0  # and one that says a byte now and then


class Stream(Protocol):
    """Reads and writes bytes; `wait` comes before each frame, however long that takes."""

    def wait(self) -> None:
        """Wait until there is something to read, or the end."""
        ...

    def read(self, count: int) -> bytes:
        """Return up to `count` bytes; none at the end."""
        ...

    def write(self, data: memoryview) -> int:
        """Write some of the bytes and return how many."""
        ...

    def flush(self) -> None:
        """Do what is left to be done for what was written to arrive."""
        ...

    def close(self) -> None:
        """End both directions; whoever reads finds the end."""
        ...


class SocketStream:
    """A connected socket that gives up on a peer which stalls in the middle of a frame."""

    def __init__(self, connection: socket.socket, stall_s: float = STALL_S, frame_s: float = FRAME_S) -> None:
        self._socket = connection
        self._frame_s = frame_s
        self._deadline = 0.0
        connection.settimeout(stall_s)

    def wait(self) -> None:
        """See `Stream.wait`."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        poll.poll()
        self._deadline = time.monotonic() + self._frame_s

    def read(self, count: int) -> bytes:
        """See `Stream.read`.

        Raises:
            TimeoutError: the peer stalled.
        """
        if time.monotonic() > self._deadline:
            raise TimeoutError(f"one frame took longer than {self._frame_s:g} s")
        return self._socket.recv(min(count, 1 << 20))

    def write(self, data: memoryview) -> int:
        """See `Stream.write`."""
        return self._socket.send(data)

    def flush(self) -> None:
        """See `Stream.flush`."""

    def close(self) -> None:
        """See `Stream.close`."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)


class PipeStream:
    """A source and a sink, which belong to whoever started this process: they may take their time."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink

    def wait(self) -> None:
        """See `Stream.wait`."""

    def read(self, count: int) -> bytes:
        """See `Stream.read`."""
        return self._source.read(count)

    def write(self, data: memoryview) -> int:
        """See `Stream.write`."""
        written: Optional[int] = self._sink.write(data)
        return written or 0

    def flush(self) -> None:
        """See `Stream.flush`."""
        self._sink.flush()

    def close(self) -> None:
        """See `Stream.close`; the reader finds the end when the other side closes."""
