"""Ends every process that came of a worker, also one that left its session, so that none outlives it.

A process whose parent ended becomes a child of the nearest ancestor that asked for such orphans (prctl(2),
PR_SET_CHILD_SUBREAPER, Linux 3.4): the agent asks. What then is a child of the agent, was none before the
worker began and is not in a session that the agent began itself, came of the worker. Sessions can be left but
not entered, so nothing that a worker does makes its processes look like the agent's own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterable
from typing import Any, NamedTuple, Optional

from device_agent.sensors import PROCFS, read_text
from device_agent.settings import LAUNCHED

_PR_SET_CHILD_SUBREAPER = 36
_LONGEST_S = 5.0
_LONGEST_HUNT_S = 20.0  # for processes that fork on and on; a slow and busy board needs it
_PAUSE_S = 0.005
_QUIET_LOOKS = 3

_sessions: set[int] = set()  # begun by this agent for its workers and hooks, as long as these run
_sessions_turn = threading.Lock()  # nobody looks for strays between a session's begin and its entry here


class Process(NamedTuple):
    """One line of /proc/PID/stat: what is needed of it. Number and start together name a process for good."""

    pid: int
    parent: int
    state: str
    start: int


def start(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own that `Offspring` takes for the agent's."""
    with _sessions_turn:
        process = subprocess.Popen(command, start_new_session=True, **options)
        _sessions.add(process.pid)
    return process


def end(process: subprocess.Popen[bytes], longest_s: float = _LONGEST_S) -> bool:
    """Kill a program of `start` and its process group, and wait for it; says whether it is gone."""
    if process.returncode is None:
        kill_group(process)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(longest_s)
    _sessions.discard(process.pid)
    return process.returncode is not None


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a program's process group, unless it was waited for (its number may be another's now)."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def adopt_orphans() -> bool:
    """Have processes whose parent ended become children of this one; says whether the kernel does it.

    `device-agent launch` asks for it and then becomes the daemon, which so needs no ctypes: 0.5 MB less.
    """
    if os.environ.get(LAUNCHED) == "1":
        return True
    try:
        import ctypes  # noqa: PLC0415 - a Python that was built without it still measures

        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):
        return False


class Offspring:
    """What comes of one worker. Make it before the worker starts; no hook may run until `end_all` is done."""

    def __init__(self) -> None:
        self._before = {_name(pid) for pid in children()}
        self._some_ended = False

    def end_all(self, longest_s: float = _LONGEST_HUNT_S) -> bool:
        """Stop all there are, kill them, and look again until there are none; says whether that came about.

        They are stopped first, so that what forks without end fills its limit instead of outrunning this. A chain
        of processes that each fork and end may slip through one look; but it leaves an ended one behind with every
        step, so it is over only when several looks find neither living nor ended ones.
        """
        until = time.monotonic() + longest_s
        quiet = 0
        while quiet < _QUIET_LOOKS:
            living = self._living()
            quiet = 0 if living or self._some_ended else quiet + 1
            stopped: set[int] = set()
            while (fresh := living - stopped) and time.monotonic() <= until:
                _signal(fresh, signal.SIGSTOP)
                stopped |= fresh
                living = self._living()
            _signal(living, signal.SIGKILL)  # also when time is over: nothing stays stopped
            if time.monotonic() > until:
                return False
            time.sleep(_PAUSE_S)
        return True

    def _living(self) -> set[int]:
        """Return the worker's processes that are alive, after waiting for those that ended.

        Of another user's processes /proc may tell nothing (its option hidepid). Then these are the agent's
        children only; theirs become so in turn.
        """
        with _sessions_turn:
            strays = {pid for pid in children() if self._is_stray(pid)}
        found = {pid for pid in strays if not _has_ended(pid)}
        self._some_ended = found != strays
        below: dict[int, list[Process]] = {}
        for process in processes():
            below.setdefault(process.parent, []).append(process)
        todo = list(found)
        while todo:
            inside = {process.pid for process in below.get(todo.pop(), ()) if process.state not in "ZX"}
            todo += inside - found
            found |= inside
        return found

    def _is_stray(self, child: int) -> bool:
        try:
            session = os.getsid(child)
        except ProcessLookupError:
            return False
        return session not in _sessions and session != os.getsid(0) and _name(child) not in self._before


def children() -> set[int]:
    """Return the processes that are this one's children, ended ones among them."""
    found = {process.pid for process in processes() if process.parent == os.getpid()}
    for thread in (PROCFS / "self/task").iterdir():
        found.update(int(pid) for pid in (read_text(thread / "children") or "").split())
    return found


def processes() -> list[Process]:
    """Return the processes that there are now, as far as /proc shows them."""
    found = (_read(name) for name in os.listdir(PROCFS) if name.isdigit())  # noqa: PTH208
    return [process for process in found if process is not None]


def _name(pid: int) -> tuple[int, int]:
    """Return a process's number and start, which name it for good."""
    process = _read(str(pid))
    return pid, process.start if process else 0


def _has_ended(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:
        return True


def _read(number: str) -> Optional[Process]:
    """Read /proc/PID/stat; the 2nd field may hold blanks and ends with the last parenthesis (proc(5))."""
    try:
        fields = (PROCFS / number / "stat").read_bytes().rpartition(b")")[2].split()
        return Process(int(number), int(fields[1]), fields[0].decode(), int(fields[19]))
    except (OSError, ValueError, IndexError):  # it ended meanwhile
        return None


def _signal(victims: Iterable[int], number: int) -> None:
    for victim in victims:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(victim, number)
