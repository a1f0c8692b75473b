"""The user that workers run as, where the agent may give a process another user than its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from device_agent.errors import RequestError
from device_agent.sensors import PROCFS, read_text

_NEEDED = 1 << 5 | 1 << 6 | 1 << 7  # CAP_KILL, CAP_SETGID, CAP_SETUID


def find(name: Optional[str], devices: Iterable[str] = (), procfs: Path = PROCFS) -> Optional[dict[str, Any]]:
    """Return user, group and extra_groups for `subprocess.Popen`; `None`: the agent's own.

    Args:
        name: the user that was configured, if any.
        devices: device files that the worker needs; it gets the groups that they belong to.
        procfs: where the kernel tells the agent's capabilities.

    Raises:
        RequestError: `no_worker_user`.
    """
    if name is None:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise RequestError(
            "no_worker_user",
            f"this system has no user {name!r} to run measurements as",
            f"useradd --system --no-create-home --shell /usr/sbin/nologin {name}",
        ) from None
    if entry.pw_uid == os.geteuid() or not _may_change_users(procfs):
        return None
    groups = set()
    for device in devices:
        with contextlib.suppress(OSError):
            groups.add(Path(device).stat().st_gid)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": sorted(groups - {0, entry.pw_gid})}


def _may_change_users(procfs: Path) -> bool:
    found = re.search(r"^CapEff:\s*([0-9a-f]+)$", read_text(procfs / "self/status") or "", re.MULTILINE)
    return found is not None and int(found.group(1), 16) & _NEEDED == _NEEDED
