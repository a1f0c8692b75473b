"""The agent on its own stdin and stdout, with no daemon: what the local device starts, and a user's own agent.

Standard output carries frames only; whatever else is printed goes to stderr.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Optional

from device_agent.durable import no_link
from device_agent.errors import RequestError, from_os_error
from device_agent.serve import peers
from device_agent.serve.agent import Agent
from device_agent.serve.bridge import EXIT_DONE, Terminated, begin, refuse
from device_agent.serve.request import Service, Session
from device_agent.serve.server import Server
from device_agent.serve.streams import PipeStream
from device_agent.settings import Settings


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
    source, sink = begin()
    try:
        with locked(folder) if folder is not None else contextlib.nullcontext():
            return Server(make(), PipeStream(source, sink), Session(peers.owner())).serve()
    except Terminated:
        return EXIT_DONE
    except RequestError as error:
        return refuse(error, source, sink)
    except OSError as error:
        return refuse(from_os_error(error), source, sink)


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
