"""A control group of its own for a worker, where the agent was given a part of the tree to divide.

Source: Documentation/admin-guide/cgroup-v2.rst; systemd's "Control Group APIs and Delegation" (a unit with
`Delegate=yes` has the extended attribute user.delegate or trusted.delegate on its group). A group is ended as
a whole and at once (`cgroup.kill`, Linux 5.14), and bounds what forked processes take together. Without one,
`offspring` does by walking what a group does in one step, and each process has its own limit.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Optional

from device_agent.sensors import PROCFS, read_text

MOST_TASKS = 512
_CONTROLLERS = ("memory", "pids")
_OWN = "agent"


def delegated(procfs: Path = PROCFS) -> Optional[Path]:
    """Return this process's group of cgroup v2, if it is the agent's to divide."""
    group = _own_group(procfs)
    if group is None:
        return None
    if group.name == _OWN and _is_delegated(group.parent):
        return group.parent
    return group if _is_delegated(group) else None


class WorkerGroup:
    """A group below a delegated one, for one worker; `end` removes it.

    Raises:
        OSError: the kernel does not make one.
    """

    def __init__(self, parent: Path, name: str, memory_bytes: Optional[int]) -> None:
        _hand_down(parent)
        self._path = parent / f"worker-{name}"
        self._path.mkdir()
        self.limits = self._limit(memory_bytes)

    def add(self, pid: int) -> None:
        """Move a process into the group; all that it forks is born there."""
        (self._path / "cgroup.procs").write_text(str(pid), encoding="ascii")

    def end(self, longest_s: float = 10.0) -> bool:
        """Kill all that is in the group, wait for it and remove the group; says whether that came about."""
        until = time.monotonic() + longest_s
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                (self._path / "cgroup.kill").write_text("1", encoding="ascii")
            try:
                self._path.rmdir()
            except FileNotFoundError:
                return True
            except OSError:
                time.sleep(0.005)
            else:
                return True
        return False

    def _limit(self, memory_bytes: Optional[int]) -> tuple[str, ...]:
        """Return which limits hold."""
        wanted = {
            "pids.max": MOST_TASKS,
            "memory.swap.max": 0,
            "memory.oom.group": 1,
            "memory.max": memory_bytes,
        }
        held = []
        for name, value in wanted.items():
            if value is not None and (self._path / name).exists():
                with contextlib.suppress(OSError):
                    (self._path / name).write_text(str(value), encoding="ascii")
                    held.append(name)
        return tuple(held)


def _own_group(procfs: Path) -> Optional[Path]:
    """Return the folder of this process's group; `None` where there is no cgroup v2 or it cannot be written."""
    for line in (read_text(procfs / "self/mountinfo") or "").splitlines():
        before, _, after = line.partition(" - ")
        if after.startswith("cgroup2 "):
            root, point = before.split()[3:5]
            break
    else:
        return None
    for line in (read_text(procfs / "self/cgroup") or "").splitlines():
        if line.startswith("0::/"):
            inside = line[3:]
            if inside != root and not inside.startswith(root.rstrip("/") + "/"):
                return None
            group = Path(point + inside[len(root.rstrip("/")) :])
            return group if os.access(group, os.W_OK) else None
    return None


def _is_delegated(group: Path) -> bool:
    """Say whether a group has the mark of delegation, or belongs to this user, who is not root."""
    if os.geteuid() != 0 and group.stat().st_uid == os.geteuid():
        return True
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def _hand_down(parent: Path) -> None:
    """Have the controllers in the groups below: for that the agent itself must sit in one, too.

    Not where others share the agent's group, as on the computer of somebody who measures on it.
    """
    enabled = (read_text(parent / "cgroup.subtree_control") or "").split()
    offered = (read_text(parent / "cgroup.controllers") or "").split()
    wanted = [name for name in _CONTROLLERS if name in offered and name not in enabled]
    inside = (read_text(parent / "cgroup.procs") or "").split()
    if not wanted or inside not in ([], [str(os.getpid())]):
        return
    with contextlib.suppress(OSError):
        (parent / _OWN).mkdir(exist_ok=True)
        if inside:
            (parent / _OWN / "cgroup.procs").write_text(inside[0], encoding="ascii")
    for name in wanted:
        with contextlib.suppress(OSError):
            (parent / "cgroup.subtree_control").write_text(f"+{name}", encoding="ascii")
