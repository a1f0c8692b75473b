"""Ports and processes of servers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path


def free_port() -> int:
    """Return a port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listens(port: int) -> bool:
    """Say whether a server listens there, without a connection (which servers count and log)."""
    wanted = f"0100007F:{port:04X}"
    rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1] == wanted and row.split()[3] == "0A" for row in rows)


def kill(processes: Sequence[int]) -> None:
    """Kill processes, as far as they are still there."""
    for each in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Return the processes that one started, and those that they started."""
    parents: dict[int, list[int]] = {}
    for each in os.listdir("/proc"):  # noqa: PTH208 - nothing but the names is wanted
        if each.isdigit():
            with contextlib.suppress(OSError):
                fields = Path("/proc", each, "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(each))
    found = list(parents.get(pid, []))
    for each in found:  # which grows meanwhile
        found.extend(parents.get(each, []))
    return found
