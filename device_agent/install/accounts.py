"""The agent's users and groups."""

from __future__ import annotations

import grp
import pwd
import shutil
import subprocess
from pathlib import Path

from device_agent.errors import RequestError
from device_agent.install.layout import AGENT_USER, APPLICATIONS, OPERATORS, WORKER_USER

GROUPS = (AGENT_USER, WORKER_USER, OPERATORS, APPLICATIONS)
USERS = (AGENT_USER, WORKER_USER)
OPERATOR_GROUPS = (AGENT_USER, OPERATORS)  # the first one opens the socket
_NO_SHELL = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false")
_SECONDS = 60.0


def missing() -> list[str]:
    """Return which of the groups and users are not there."""
    groups = [name for name in GROUPS if not _is_group(name)]
    return groups + [name for name in USERS if not is_user(name) and name not in groups]


def make() -> None:
    """Make the groups and users that are not there.

    Raises:
        RequestError: `unsupported`: the board's tools refuse.
    """
    shell = next((path for path in _NO_SHELL if Path(path).exists()), _NO_SHELL[-1])
    for name in GROUPS:
        if not _is_group(name):
            run(["groupadd", "--system", name] if _has_shadow() else ["addgroup", "-S", name])
    for name in USERS:
        if not is_user(name):
            shadow = ["useradd", "--system", "--gid", name, "--home-dir", "/nonexistent", "--no-create-home"]
            busybox = ["adduser", "-S", "-D", "-H", "-h", "/nonexistent", "-G", name]
            run([*(shadow if _has_shadow() else busybox), "--shell" if _has_shadow() else "-s", shell, name])


def lacking(user: str) -> list[str]:
    """Return the groups that make an operator which a user is not in."""
    entry = pwd.getpwnam(user) if is_user(user) else None
    found = []
    for name in OPERATOR_GROUPS:
        group = grp.getgrnam(name) if _is_group(name) else None
        if entry is None or group is None or not (user in group.gr_mem or group.gr_gid == entry.pw_gid):
            found.append(name)
    return found


def join(user: str) -> None:
    """Make a user an operator; it counts from the next login on."""
    for group in lacking(user):
        run(["usermod", "-aG", group, user] if _has_shadow() else ["addgroup", user, group])


def remove() -> None:
    """Take the users and groups away."""
    for name in USERS:
        if is_user(name):
            run(["userdel", name] if _has_shadow() else ["deluser", name])
    for name in GROUPS:
        if _is_group(name):  # a user's own group went with the user
            run(["groupdel", name] if _has_shadow() else ["delgroup", name])


def is_user(name: str) -> bool:
    """Say whether the system has this user."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def run(command: list[str], seconds: float = _SECONDS) -> str:
    """Run one of the system's own tools and return what it prints.

    Raises:
        RequestError: `unsupported`, with its words.
    """
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=seconds
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RequestError("unsupported", f"{command[0]} cannot be run on the board: {error}") from error
    if done.returncode:
        words = (done.stderr or done.stdout).strip()[-500:]
        raise RequestError(
            "unsupported", f"{' '.join(command)} failed with status {done.returncode}: {words}"
        )
    return done.stdout


def _is_group(name: str) -> bool:
    try:
        grp.getgrnam(name)
    except KeyError:
        return False
    return True


def _has_shadow() -> bool:
    return shutil.which("useradd") is not None
