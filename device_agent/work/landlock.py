"""Landlock through its three system calls: this process may open only what is listed, from now on.

Source: Documentation/userspace-api/landlock.rst of the kernel, and include/uapi/linux/landlock.h for the
numbers. A kernel without landlock, or one that was started without it, answers the first call with an error.
"""

from __future__ import annotations

import ctypes
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture of a board
_VERSION_OF_ABI = 1
_RULE_PATH_BENEATH = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_REMOVE_DIR, _REMOVE_FILE, _MAKE_DIR, _MAKE_REG, _MAKE_SYM = 1 << 4, 1 << 5, 1 << 7, 1 << 8, 1 << 12
_ALL_OF_ABI_1 = (1 << 13) - 1
_REFER, _TRUNCATE, _IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15  # ABI 2, 3 and 5
_BIND_TCP, _CONNECT_TCP = 1 << 0, 1 << 1  # ABI 4
_SCOPE_ABSTRACT_SOCKET, _SCOPE_SIGNAL = 1 << 0, 1 << 1  # ABI 6

_READ = _READ_FILE | _READ_DIR
_USE = _READ | _EXECUTE
_CHANGE = _READ | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SYM
_DEVICE = _READ_FILE | _WRITE_FILE | _IOCTL_DEV
_OF_A_FILE = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV

SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/gnu/store")
SETTINGS = (  # of /etc no more than programs need to start: secrets lie beside these
    "/etc/ld.so.cache",
    "/etc/ld.so.preload",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/os-release",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/group",
)
KERNEL = ("/proc", "/sys", "/dev/urandom", "/dev/random", "/dev/zero")
NOWHERE = "/dev/null"


class _Ruleset(ctypes.Structure):
    _fields_ = (
        ("handled_access_fs", ctypes.c_uint64),
        ("handled_access_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def abi(libc: Any) -> int:
    """Return the version of landlock that the kernel offers; 0 for none."""
    return max(0, _call(libc, _CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_VERSION_OF_ABI)))


def restrict(
    libc: Any, reads: Iterable[Path], scratch: Path, devices: Iterable[Path] = ()
) -> dict[str, bool]:
    """Restrict the calling thread and all that it will start; `no_new_privs` must be set.

    Args:
        libc: the C library, opened with `use_errno`.
        reads: what may be read and executed, beside `SYSTEM`, `SETTINGS` and `KERNEL`; folders with all in them.
        scratch: the folder that may be changed.
        devices: device files that may be written to and controlled.

    Returns:
        Which of landlock, network (no TCP) and signals (none to outside) hold.
    """
    version = abi(libc)
    handled = _handled(version)
    ruleset = _Ruleset(handled, _BIND_TCP | _CONNECT_TCP, _SCOPE_ABSTRACT_SOCKET | _SCOPE_SIGNAL)
    size = 8 if version < 4 else 16 if version < 6 else 24
    none = {"landlock": False, "network": False, "signals": False}
    rules = -1
    if version:
        rules = _call(libc, _CREATE_RULESET, ctypes.byref(ruleset), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if rules < 0:
        return none
    try:
        for path, access in _rules(reads, scratch, devices):
            _allow(libc, rules, path, access & handled)
        holds = _call(libc, _RESTRICT_SELF, ctypes.c_int(rules), ctypes.c_uint32(0)) == 0
    finally:
        os.close(rules)
    return {"landlock": holds, "network": holds and version >= 4, "signals": holds and version >= 6}


def _handled(version: int) -> int:
    """Return every right to files that this version can withhold."""
    later = ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL_DEV))
    return _ALL_OF_ABI_1 | sum(right for since, right in later if version >= since)


def _rules(reads: Iterable[Path], scratch: Path, devices: Iterable[Path]) -> Iterable[tuple[Path, int]]:
    yield from ((Path(place), _USE) for place in SYSTEM)
    yield from ((Path(place), _READ) for place in (*SETTINGS, *KERNEL))
    yield from ((place, _USE) for place in reads)
    yield from ((place, _DEVICE) for place in (Path(NOWHERE), *devices))
    yield scratch, _CHANGE


def _allow(libc: Any, rules: int, path: Path, access: int) -> None:
    """Add one rule; a path that is not there needs none."""
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(place).st_mode):
            access &= _OF_A_FILE
        rule = _PathBeneath(access, place)
        _call(
            libc,
            _ADD_RULE,
            ctypes.c_int(rules),
            ctypes.c_int(_RULE_PATH_BENEATH),
            ctypes.byref(rule),
            ctypes.c_uint32(0),
        )
    finally:
        os.close(place)


def _call(libc: Any, number: int, *arguments: Any) -> int:
    return int(libc.syscall(ctypes.c_long(number), *arguments))
