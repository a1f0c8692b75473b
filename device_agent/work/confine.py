"""What a worker takes from itself before it touches a model: rights, memory, files, processes.

A model file may be hostile and a runtime may have faults, so the worker is to be able to read what it needs
and to write nothing that stays. Every measure holds where the kernel has it; `confine` returns the names of
those that do:

    user              the process has a user of its own, other than the agent's (the agent starts it so)
    no-new-privileges no file with the set-user-id bit gives any (prctl(2), Linux 3.5)
    capabilities      it has none and can get none (capabilities(7))
    not-traceable     no other process of this user may look into it, and it leaves no core dump
    nproc             at most so many processes and threads more than its user has (setrlimit(2))
    files             open files and the size of one written file are limited
    memory            RLIMIT_DATA: what the board has available now, less a reserve
    oom-first         the first that the kernel ends when memory runs out
    landlock          it opens only what it needs, and writes only to its own folder (landlock(7), Linux 5.13)
    network           no TCP (landlock ABI 4, Linux 6.7)
    signals           none to processes outside (landlock ABI 6, Linux 6.12)

Nothing here changes how fast the worker is: its nice level, scheduler and clock stay as they are.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from device_agent.sensors import PROCFS, read_text
from device_agent.sensors.memory import MemorySensor

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_CAPABILITY_VERSION_3 = 0x20080522
_MORE_PROCESSES = 256
_MOST_OPEN_FILES = 256
_MOST_FILE_BYTES = 16 * 1024 * 1024  # a runtime's profile of one pass over a large model
_LEAST_RESERVE_BYTES = 32 * 1024 * 1024
_LEAST_MEMORY_BYTES = 64 * 1024 * 1024  # less than this and not even an error can be told


def confine(
    agent_user: int, reads: Iterable[Path], scratch: Path, devices: Iterable[Path] = (), procfs: Path = PROCFS
) -> list[str]:
    """Confine this process for good; call it with one thread and before anything untrusted is opened.

    Args:
        agent_user: the agent's user id.
        reads: files and folders that may be read beside the system and the agent's program.
        scratch: the one folder that may be written to.
        devices: device files that may be read, written and controlled (a power meter).
        procfs: where the kernel tells about memory and processes.

    Returns:
        The names of the measures that hold.
    """
    libc = _libc()
    held = {
        "oom-first": _first_for_the_kernel(procfs),
        "nproc": _limit_processes(procfs),
        "files": _limit_files(),
        "memory": _limit_memory(memory_limit_bytes(procfs)),
    }
    if libc is not None:
        held["capabilities"] = _drop_capabilities(libc)
        held["user"] = held["capabilities"] and os.getuid() != agent_user
        held["no-new-privileges"] = libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
        held["not-traceable"] = libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) == 0
        from device_agent.work import landlock  # noqa: PLC0415 - it needs ctypes, which a Python may lack

        held.update(landlock.restrict(libc, [*program(), *reads], scratch, devices))
    return [name for name, holds in held.items() if holds]


def die_with_parent(agent_pid: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; end now if it did already."""
    libc = _libc()
    if libc is not None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != agent_pid:
        sys.exit(1)


def program() -> list[Path]:
    """Return where this program, Python and its packages lie, as far as that is not in the system's folders."""
    places = [*sys.path, sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, sys.executable]
    places += os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    lib = Path(__file__).resolve().parents[2] / "lib"  # where provisioning links each package to its one copy
    packages = [entry.resolve() for entry in lib.glob("*") if entry.is_symlink()]
    return [*(Path(place) for place in dict.fromkeys(places) if place), *packages]


def memory_limit_bytes(procfs: Path = PROCFS) -> Optional[int]:
    """Return what a worker may take: what is available now, less 5 % of the board's memory or 32 MiB."""
    memory = MemorySensor(procfs)
    available, total = memory.available_bytes(), memory.total_bytes()
    if available is None or total is None:
        return None
    return max(_LEAST_MEMORY_BYTES, available - max(_LEAST_RESERVE_BYTES, total // 20))


def _libc() -> Any:
    try:
        import ctypes  # noqa: PLC0415 - a Python that was built without it still measures

        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    except (ImportError, OSError, AttributeError):
        return None
    return libc


def _first_for_the_kernel(procfs: Path) -> bool:
    try:
        (procfs / "self/oom_score_adj").write_text("1000", encoding="ascii")
    except OSError:
        return False
    return True


def _limit_files() -> bool:
    _lower(resource.RLIMIT_CORE, 0)
    return _lower(resource.RLIMIT_NOFILE, _MOST_OPEN_FILES) and _lower(
        resource.RLIMIT_FSIZE, _MOST_FILE_BYTES
    )


def _limit_memory(limit_bytes: Optional[int]) -> bool:
    return limit_bytes is not None and _lower(resource.RLIMIT_DATA, limit_bytes)


def _limit_processes(procfs: Path) -> bool:
    """Limit processes and threads; the limit counts all that the user has, and does not hold for root.

    Seen from a container the user may have more than /proc shows. So it is tried out with the soft limit, and
    taken back if it left no room.
    """
    if os.getuid() == 0:
        return False
    soft, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    limit = _tasks_of(os.getuid(), procfs) + _MORE_PROCESSES
    if soft != resource.RLIM_INFINITY and soft <= limit:
        return True
    try:
        resource.setrlimit(resource.RLIMIT_NPROC, (limit, hard))
        trial = threading.Thread(target=int)
        trial.start()
        trial.join()
    except (OSError, ValueError, RuntimeError):
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NPROC, (soft, hard))
        return False
    return _lower(resource.RLIMIT_NPROC, limit)


def _tasks_of(user: int, procfs: Path) -> int:
    """Count the processes and threads of a user."""
    count = 0
    for entry in procfs.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if entry.stat().st_uid == user:
                count += _threads(read_text(entry / "stat"))
    return count


def _threads(stat: Optional[str]) -> int:
    """Return the 20th field of /proc/PID/stat; the 2nd may hold blanks and ends with the last parenthesis."""
    fields = (stat or "").rpartition(")")[2].split()
    return int(fields[17]) if len(fields) > 17 else 0


def _lower(limit: int, value: int) -> bool:
    """Set both limits to `value`, unless the hard one is below it already."""
    hard = resource.getrlimit(limit)[1]
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    try:
        resource.setrlimit(limit, (value, value))
    except (OSError, ValueError):
        return False
    return True


def _drop_capabilities(libc: Any) -> bool:
    """Give up all capabilities, those of the bounding set too where that is allowed."""
    import ctypes  # noqa: PLC0415

    for number in range(64):
        if libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            break  # not allowed to, or past the last one
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    return bool(libc.capset(header, nothing) == 0)
