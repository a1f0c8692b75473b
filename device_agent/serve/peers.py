"""Who is at the other end of the agent's socket, as the kernel says, and what they may do."""

from __future__ import annotations

import array
import contextlib
import grp
import os
import pwd
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from device_agent.errors import RequestError

OPERATOR, APPLICATION, READER = "operator", "application", "reader"
_SO_PEERGROUPS = 59
_MOST_BYTES = 1024  # that Python asks for: 256 groups; who is in more is looked up by name
_CREDENTIALS = struct.Struct("3i")


class Peer(NamedTuple):
    """One connected process: its ids and its roles. An operator may do what an application and a reader may."""

    pid: int
    uid: int
    roles: frozenset[str]

    def __str__(self) -> str:
        return f"user {_user_name(self.uid)} (process {self.pid})"

    def require(self, role: str, method: str) -> None:
        """Raise `not_allowed` unless this peer has the role that a method needs."""
        if role not in self.roles:
            raise RequestError(
                "not_allowed",
                f"{self} may not call {method}: it needs the role {role}",
                f"an administrator can add the user to the agent's {role}s, a group of the system",
            )


def owner() -> Peer:
    """Return this process itself, which may do everything: it started the agent on its own pipes."""
    return Peer(os.getpid(), os.getuid(), frozenset({OPERATOR, APPLICATION, READER}))


class Roles:
    """Who is what: the groups of operators and of applications; root and the agent's own user operate, too.

    Whoever may open the socket at all (its group, mode 0660) may read.

    Raises:
        RequestError: `bad_request`, for a group that the system does not know.
    """

    def __init__(self, operators: Iterable[str] = (), applications: Iterable[str] = ()) -> None:
        self._operators = {group_id(name) for name in operators}
        self._applications = {group_id(name) for name in applications}

    def identify(self, connection: socket.socket) -> Peer:
        """Ask the kernel who connected; what the peer itself says does not count."""
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(raw)
        groups = {gid, *_groups(connection, uid, gid)}
        roles = {READER}
        if uid in (0, os.geteuid()) or groups & self._operators:
            roles |= {OPERATOR, APPLICATION}
        if groups & self._applications:
            roles |= {APPLICATION}
        return Peer(pid, uid, frozenset(roles))


def _groups(connection: socket.socket, uid: int, gid: int) -> Iterable[int]:
    """Return the groups that the peer had when it connected (Linux 4.13), else those of its user."""
    with contextlib.suppress(OSError):
        return array.array("I", connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _MOST_BYTES))
    with contextlib.suppress(KeyError):
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    return ()


def group_id(name: str) -> int:
    """Return a group's number.

    Raises:
        RequestError: `bad_request`.
    """
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise RequestError(
            "bad_request", f"this system has no group {name!r}", f"groupadd --system {name}"
        ) from None


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
