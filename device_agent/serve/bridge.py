"""Passes bytes between stdin, stdout and a daemon's socket: what SSH opens on a board that has a daemon.

One such process lives for as long as a host is connected, so it imports next to nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from device_agent.errors import RequestError
from device_agent.wire import WireError, read_frame, write_frame

EXIT_DONE = 0
EXIT_REFUSED = 4
_PIECE = 256 * 1024


class Terminated(BaseException):
    """SIGTERM came."""


def bridge(path: Path) -> int:
    """Pass bytes between stdin, stdout and a daemon's socket until either end is over.

    Returns:
        0 at the end, 4 if no daemon answers.
    """
    source, sink = begin()
    try:
        connection = connect(path)
    except RequestError as error:
        return refuse(error, source, sink)
    with connection, contextlib.suppress(Terminated, OSError):
        threading.Thread(target=_pump_in, args=(source.fileno(), connection), daemon=True).start()
        while data := connection.recv(_PIECE):
            sink.write(data)
    return EXIT_DONE


def connect(path: Path) -> socket.socket:
    """Connect to a daemon.

    Raises:
        RequestError: `no_agent`, `not_allowed`.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except PermissionError as error:
        connection.close()
        raise RequestError(
            "not_allowed", f"this user may not open {path}", "join the group that the socket belongs to"
        ) from error
    except OSError as error:
        connection.close()
        raise RequestError(
            "no_agent",
            f"no agent answers at {path}: {error.strerror or error}",
            "systemctl status device-agent",
        ) from error
    return connection


def begin() -> tuple[BinaryIO, BinaryIO]:
    """Keep stdin and stdout for frames; a stray print then lands on stderr, a stray read finds nothing."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the host, too, and the host decides
    signal.signal(signal.SIGTERM, _terminate)
    source = os.fdopen(os.dup(0), "rb")
    sink = os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, sink


def _pump_in(source: int, connection: socket.socket) -> None:
    """Pass what comes on stdin; its end is passed on, too, and the daemon then ends the connection."""
    with contextlib.suppress(OSError):
        while data := os.read(source, _PIECE):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)


def refuse(error: RequestError, source: BinaryIO, sink: BinaryIO) -> int:
    """Say why there is no service, and take the host's hello so that it can read this."""
    print(f"device-agent: {error.message}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError, WireError):
        write_frame(sink, {"error": error.as_dict()})
        if select.select([source], [], [], 2.0)[0]:
            read_frame(source)
    return EXIT_REFUSED


def _terminate(*_: object) -> None:
    raise Terminated
