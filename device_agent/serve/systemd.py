"""What systemd is told (sd_notify(3)): ready, still alive, stopping. Silent where it does not ask."""

from __future__ import annotations

import os
import socket
from typing import Optional


def notify(state: str) -> None:
    """Tell the service manager a state such as "READY=1"; nobody listening is fine."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)
        except OSError:
            return


def watchdog_ms() -> Optional[int]:
    """Return how long to wait at most between two signs of life: a third of what the unit allows."""
    limit = os.environ.get("WATCHDOG_USEC", "")
    mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return max(1, int(limit) // 3000) if limit.isdigit() and mine else None
