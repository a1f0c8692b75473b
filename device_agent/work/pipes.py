"""Hears a program to its end within bounds: of time, of a line's length, of all that it prints.

One thread serves all its pipes, and nothing that the program does makes the agent wait or its memory grow:
not a line without an end, not a pipe that it closes or hands on to others, not an input that it never reads.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import IO, Optional

MOST_LINE_BYTES = 512 * 1024  # a measurement with some thousand operators
MOST_TALK_BYTES = 64 * 1024 * 1024
_TAIL_BYTES = 2000
_READ_BYTES = 64 * 1024
_GRACE_S = 2.0  # for a program that closed its output, to end
_LOOK_EVERY_S = 2.0
_LOOK_EVERY_S_WITHOUT_PIDFD = 0.1  # Linux before 5.3 does not tell a file descriptor of a program's end


class TooMuchError(Exception):
    """The program printed more than any in its place would."""


class Pipes:
    """The agent's end of one program's pipes; a context manager that closes them.

    Args:
        process: the program.
        talk: what it prints for people; the end of it is kept in `tail`.
        answers: what it prints for the agent, in lines; `None` if nothing.
        feed: bytes for its stdin, which is closed then.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        talk: Optional[IO[bytes]],
        answers: Optional[IO[bytes]] = None,
        feed: bytes = b"",
    ) -> None:
        self._process = process
        self._feed = memoryview(feed)
        self._line = bytearray()
        self._talk = bytearray()
        self._talked = 0
        self._until = 0.0
        self._hung_up = False
        self._poll = select.poll()
        self._serve: dict[int, Callable[[int], bool]] = {}
        self._streams = [stream for stream in (talk, answers, process.stdin) if stream is not None]
        self._ending = _pidfd(process.pid)
        if self._ending is not None:
            self._register(self._ending, lambda _: False, select.POLLIN)
        for stream, serve, event in (
            (talk, self._hear_talk, select.POLLIN),
            (answers, self._hear_answers, select.POLLIN),
            (process.stdin, self._feed_some, select.POLLOUT),
        ):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                self._register(stream.fileno(), serve, event)

    def __enter__(self) -> Pipes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._ending is not None:
            os.close(self._ending)
        for stream in self._streams:
            with contextlib.suppress(OSError):
                stream.close()

    @property
    def tail(self) -> str:
        """Return the last of what the program printed for people."""
        return self._talk.decode("utf-8", "replace").strip()

    def lines(self, longest_s: float, look: Callable[[], None] = lambda: None) -> Iterator[bytes]:
        """Yield the answers, line by line, until the program ended, or closed its output and does not end.

        Args:
            longest_s: how long to listen.
            look: called now and then; what it raises ends this.

        Raises:
            TimeoutError: the program goes on after `longest_s`.
            TooMuchError: a line of more than `MOST_LINE_BYTES`, talk of more than `MOST_TALK_BYTES`.
        """
        self._until = time.monotonic() + longest_s
        every_s = _LOOK_EVERY_S_WITHOUT_PIDFD if self._ending is None else _LOOK_EVERY_S
        while self._process.poll() is None:
            left_s = self._until - time.monotonic()
            if left_s <= 0 and self._hung_up:
                return
            if left_s <= 0:
                raise TimeoutError
            self._serve_for(min(left_s, every_s))
            yield from self._whole_lines()
            look()
        # what it wrote before it ended is in the pipes; others may go on writing there, so this has an end, too
        for _ in range(MOST_LINE_BYTES // _READ_BYTES):
            if not self._serve_for(0):
                break
            yield from self._whole_lines()

    def _register(self, descriptor: int, serve: Callable[[int], bool], event: int) -> None:
        self._serve[descriptor] = serve
        self._poll.register(descriptor, event)

    def _serve_for(self, timeout_s: float) -> bool:
        """Wait for the pipes and serve those that are ready; says whether there were any."""
        ready = self._poll.poll(timeout_s * 1000)
        for descriptor, _ in ready:
            if not self._serve[descriptor](descriptor):
                self._poll.unregister(descriptor)
        return bool(ready)

    def _whole_lines(self) -> Iterator[bytes]:
        """Take the lines that are whole from what came."""
        *whole, rest = self._line.split(b"\n")
        self._line = rest
        if max(map(len, (*whole, rest))) > MOST_LINE_BYTES:
            raise TooMuchError(f"it answered with a line of more than {MOST_LINE_BYTES // 1024} KiB")
        for line in whole:
            yield bytes(line)

    def _hear_answers(self, descriptor: int) -> bool:
        data = _read(descriptor)
        self._line += data
        if not data:
            self._hung_up = True
            self._until = min(self._until, time.monotonic() + _GRACE_S)
        return bool(data)

    def _hear_talk(self, descriptor: int) -> bool:
        data = _read(descriptor)
        self._talked += len(data)
        self._talk = (self._talk + data)[-_TAIL_BYTES:]
        if self._talked > MOST_TALK_BYTES:
            raise TooMuchError(f"it printed more than {MOST_TALK_BYTES // 1024 // 1024} MiB")
        return bool(data)

    def _feed_some(self, descriptor: int) -> bool:
        try:
            self._feed = self._feed[os.write(descriptor, self._feed[:_READ_BYTES]) :]
        except BlockingIOError:
            return True
        except OSError:  # it closed its stdin; how it ends is told by its end
            self._feed = self._feed[:0]
        if self._feed:
            return True
        if self._process.stdin is not None:
            self._poll.unregister(descriptor)
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        return True


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, _READ_BYTES)
    except OSError:
        return b""


def _pidfd(pid: int) -> Optional[int]:
    """Return a descriptor that can be read when a process ended, where Python and kernel know such."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None
