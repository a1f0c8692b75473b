"""The agent on its own stdin and stdout: what SSH opens on a board, and what the local device starts.

Standard output carries frames only; whatever else is printed goes to stderr. With a daemon on the board, this
is a bridge to its socket; standalone, it serves the state folder itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Optional

from device_agent.durable import no_link
from device_agent.errors import RequestError, from_os_error
from device_agent.serve import peers
from device_agent.serve.agent import Agent
from device_agent.serve.request import Service, Session
from device_agent.serve.server import EXIT_DONE, Server
from device_agent.serve.streams import PipeStream
from device_agent.settings import Settings
from device_agent.wire import WireError, read_frame, write_frame

EXIT_REFUSED = 4
_PIECE = 64 * 1024


class _Terminated(BaseException):
    """SIGTERM came."""


def serve_stdio(settings: Settings) -> int:
    """Serve the state folder on stdin and stdout; see `serve_alone`."""
    return serve_alone(settings.state, lambda: Agent(settings))


def serve_alone(folder: Optional[Path], make: Callable[[], Service]) -> int:
    """Serve on stdin and stdout until stdin ends or SIGTERM comes.

    Args:
        folder: is locked for as long as that takes; `None`: nothing is.
        make: returns what is served; is called with the lock held.

    Returns:
        0 at the end, 3 for a peer that breaks the protocol, 4 if the folder is locked or not usable.
    """
    source, sink = _begin()
    try:
        with locked(folder) if folder is not None else contextlib.nullcontext():
            return Server(make(), PipeStream(source, sink), Session(peers.owner())).serve()
    except _Terminated:
        return EXIT_DONE
    except RequestError as error:
        return _refuse(error, source, sink)
    except OSError as error:
        return _refuse(from_os_error(error), source, sink)


def bridge(path: Path) -> int:
    """Pass bytes between stdin, stdout and a daemon's socket until either end is over.

    Returns:
        0 at the end, 4 if no daemon answers.
    """
    source, sink = _begin()
    try:
        connection = connect(path)
    except RequestError as error:
        return _refuse(error, source, sink)
    with connection, contextlib.suppress(_Terminated, OSError):
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


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a state folder, made if need be, for this process alone.

    Raises:
        RequestError: `locked`, naming the process that holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    note = folder / "lock"
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # which a full or read-only disk allows, too
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = note.read_text(encoding="utf-8").strip() if note.is_file() else "unknown"
            raise RequestError(
                "locked",
                f"another agent (process {holder}) uses the state folder {folder}",
                "wait for it to end, or end it",
            ) from None
        with contextlib.suppress(OSError), open(note, "w", encoding="utf-8", opener=no_link) as stream:
            stream.write(f"{os.getpid()}\n")
        yield
    finally:
        os.close(descriptor)


def _begin() -> tuple[BinaryIO, BinaryIO]:
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


def _refuse(error: RequestError, source: BinaryIO, sink: BinaryIO) -> int:
    """Say why there is no service, and take the host's hello so that it can read this."""
    print(f"device-agent: {error.message}", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError, WireError):
        write_frame(sink, {"error": error.as_dict()})
        if select.select([source], [], [], 2.0)[0]:
            read_frame(source)
    return EXIT_REFUSED


def _terminate(*_: object) -> None:
    raise _Terminated
