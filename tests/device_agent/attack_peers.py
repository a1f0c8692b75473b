"""An attacker's own end of the daemon's socket, and what it takes from the board, for tests."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daemon_process import Daemon

from device_agent import wire
from device_agent.serve.bridge import connect

STRANGER = 65534
HELLO = {"hello": {"protocols": [1]}}


class Raw:
    """A connection over which any bytes may be sent, and any number of them left unread."""

    def __init__(self, daemon: Daemon, *, hello: bool = True) -> None:
        self.socket = connect(daemon.socket)
        self.socket.settimeout(30)
        self._stream = self.socket.makefile("rb")
        self._number = 0
        if hello:
            self.send(HELLO)
            assert "hello" in self.read()

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        """Close it; may be said again."""
        self._stream.close()
        self.socket.close()

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        self.socket.sendall(wire.encode_frame(header, payload))

    def send_raw(self, header: bytes) -> None:
        """Send a header that is any bytes at all."""
        self.socket.sendall(struct.pack(">II", len(header), 0) + header)

    def begin(self, method: str, params: Any = None, payload: bytes = b"") -> int:
        self._number += 1
        self.send({"id": self._number, "method": method, "params": params or {}}, payload)
        return self._number

    def ask(self, method: str, params: Any = None, payload: bytes = b"") -> dict[str, Any]:
        """Make one request while no other is under way; returns the frame with its result or error."""
        self.begin(method, params, payload)
        while "event" in (answer := self.read()):
            pass
        return answer

    def code(self, method: str, params: Any = None, payload: bytes = b"") -> str:
        """Return the code that a request is refused with; empty if it is done."""
        found: str = self.ask(method, params, payload).get("error", {}).get("code", "")
        return found

    def read(self) -> dict[str, Any]:
        frame = wire.read_frame(self._stream)
        assert frame is not None, "the agent closed the connection"
        return frame.header

    def read_to_the_end(self) -> None:
        """Wait until the agent closes the connection; what still comes does not matter."""
        with contextlib.suppress(ConnectionError):
            while self._stream.read(1 << 16):
                pass


@contextlib.contextmanager
def stranger(*groups: int, user: int = STRANGER) -> Iterator[None]:
    """Be another user, in some groups, as the kernel sees this process; takes root.

    The kernel notes who connects at that moment, so a connection stays the stranger's afterwards.
    """
    before = os.getgroups()
    try:
        os.setgroups(groups)
        os.setegid(STRANGER)
        os.seteuid(user)
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


def status_of(daemon: Daemon, name: str) -> int:
    """Return a number from /proc/PID/status of a daemon, such as Threads or VmRSS (in kB)."""
    assert daemon.process
    text = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith(f"{name}:")).split()[1])


def children_of(daemon: Daemon) -> int:
    """Return how many processes a daemon has started that still run."""
    assert daemon.process
    found = 0
    for task in Path(f"/proc/{daemon.process.pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += len(task.read_text().split())
    return found
