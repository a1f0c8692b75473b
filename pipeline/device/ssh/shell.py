"""Commands on a board, one channel each, over one connection."""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from pipeline.device.address import SshAddress
from pipeline.device.shell import Completed
from pipeline.device.ssh.connection import BROKEN, Channel, Connection, connect, reason
from pipeline.device.transport import Transport
from pipeline.errors import LinkLostError

LAST_WORDS_S = 1.0
_PIECE = 32 * 1024
_TAIL_LINES = 10
_LINE_BYTES = 500
_COMMAND_NOT_FOUND = 127
_MOST_OUTPUT = 64 * 1024 * 1024
_SILENCE_S = 1.0


class SshShell:
    """One connection to one board; it is made when it is first needed, and anew after it broke."""

    def __init__(self, address: SshAddress, name: str) -> None:
        self.name = f"device {name!r}"
        self._device = name
        self._address = address
        self._turn = threading.Lock()
        self._connection: Connection | None = None

    def __enter__(self) -> SshShell:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, command: str, stdin: bytes = b"", *, timeout_s: float = 60.0) -> Completed:
        """See `Shell.run`."""
        deadline = time.monotonic() + timeout_s
        channel = self.channel(command)
        try:
            return _collect(channel, stdin, deadline)
        except BROKEN as error:
            raise self.lost(f"the link broke during a command: {reason(error)}") from error
        except _TimeIsOver:
            raise self.lost(f"a command did not end within {timeout_s:g} s") from None
        finally:
            channel.close()

    def transport(self, command: str) -> Transport:
        """See `Shell.transport`."""
        return SshTransport(self, command, self._device)

    def close(self) -> None:
        """See `Shell.close`."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def channel(self, command: str) -> Channel:
        """Start a command and return its channel.

        Raises:
            TransportError: there is no connection, or the board opens no channel.
        """
        with self._turn:
            if self._connection is None or not self._connection.alive:
                if self._connection is not None:
                    self._connection.close()
                self._connection = connect(self._address, self.name)
            connection = self._connection
        try:
            return connection.start(command)
        except BROKEN as error:
            raise self.lost(f"the board starts no command: {reason(error)}") from error

    def lost(self, what: str) -> LinkLostError:
        """Return the error for a link that is of no more use."""
        return LinkLostError(f"{self.name}: {what}", hint="is the board still up? then run the command again")


class SshTransport:
    """The pipes of one command on a board; `owns` says that the connection ends with it."""

    def __init__(self, shell: SshShell, command: str, device: str, *, owns: bool = False) -> None:
        self.name = shell.name
        self._shell = shell
        self._command = command
        self._device = device
        self._owns = owns
        self._channel: Channel | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._drain: threading.Thread | None = None

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        """See `Transport.open`; may be called again after `close`."""
        channel = self._channel = self._shell.channel(self._command)
        self._tail.clear()
        self._drain = threading.Thread(target=self._listen, args=(channel,), daemon=True)
        self._drain.start()
        source = io.BufferedReader(_Source(channel), 4 * _PIECE)
        return cast("BinaryIO", source), cast("BinaryIO", _Sink(channel))

    def close(self) -> None:
        """See `Transport.close`."""
        with contextlib.suppress(
            *BROKEN, AttributeError
        ):  # paramiko's way of saying that another thread was quicker
            if self._channel is not None:
                self._channel.close()
            if self._owns:
                self._shell.close()
        if self._drain is not None:
            self._drain.join(timeout=1.0)

    def last_words(self) -> str:
        """See `Transport.last_words`."""
        channel = self._channel
        if channel is None:
            return ""
        channel.status_event.wait(timeout=LAST_WORDS_S)
        if self._drain is not None:
            self._drain.join(timeout=0.2)
        ended = channel.status_event.is_set() and channel.exit_status >= 0
        how = f"the agent ended with exit status {channel.exit_status}" if ended else ""
        if self.command_is_missing:
            how = f"the board cannot run {self._command.split()[0]!r}"
        return ": ".join(part for part in (how, "\n".join(self._tail)) if part)

    @property
    def command_is_missing(self) -> bool:
        """Whether the board knows no such command."""
        return self._channel is not None and self._channel.exit_status == _COMMAND_NOT_FOUND

    def _listen(self, channel: Channel) -> None:
        with contextlib.suppress(*BROKEN), channel.makefile_stderr("rb") as stream:
            while line := stream.readline(_LINE_BYTES):
                self._tail.append(line.decode("utf-8", "replace").rstrip())


class _Source(io.RawIOBase):
    """What a command prints."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _os_errors():
            data = self._channel.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Sink(io.RawIOBase):
    """What a command reads; closing it tells the command that nothing more comes."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data[:_PIECE])
        with _os_errors():
            sent = self._channel.send(piece)
        if piece and not sent:
            raise BrokenPipeError("the command takes no more")
        return int(sent)

    def close(self) -> None:
        if not self.closed:
            with contextlib.suppress(*BROKEN):
                self._channel.shutdown_write()
        super().close()


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    """Have a broken connection raise what a broken pipe would."""
    try:
        yield
    except OSError:
        raise
    except BROKEN as error:
        raise BrokenPipeError(reason(error)) from error


class _TimeIsOver(Exception):  # noqa: N818 - it is not an error of its own
    """A command takes too long."""


def _collect(channel: Channel, stdin: bytes, deadline: float) -> Completed:
    """Feed a command and read everything that it prints, both at once, until it ends."""
    feeder = threading.Thread(target=_feed, args=(channel, stdin), daemon=True)
    feeder.start()
    parts: tuple[list[bytes], list[bytes]] = ([], [])
    total, heard = 0, time.monotonic()
    streams = ((channel.recv_ready, channel.recv), (channel.recv_stderr_ready, channel.recv_stderr))
    while True:
        now = time.monotonic()
        if now > deadline:
            raise _TimeIsOver
        for kept, (is_ready, receive) in zip(parts, streams, strict=True):
            while is_ready():
                kept.append(receive(_PIECE))
                total, heard = total + len(kept[-1]), now
        if total > _MOST_OUTPUT:
            raise OSError(f"the command printed more than {_MOST_OUTPUT} bytes")
        # The last output may come after the exit status; what was left running may keep the streams open for good.
        if channel.exit_status_ready() and (
            channel.eof_received or channel.closed or now > heard + _SILENCE_S
        ):
            if not (channel.recv_ready() or channel.recv_stderr_ready()):
                break
            continue
        if channel.closed and not channel.exit_status_ready():
            raise EOFError("the connection ended")
        time.sleep(0.005)
    if channel.exit_status < 0:
        raise EOFError("the command ended without an exit status")
    return Completed(channel.exit_status, b"".join(parts[0]), b"".join(parts[1]))


def _feed(channel: Channel, stdin: bytes) -> None:
    with contextlib.suppress(*BROKEN), _Sink(channel) as sink:
        left = memoryview(stdin)
        while left:
            left = left[sink.write(left) :]
