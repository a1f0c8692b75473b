"""Every operation by which this process changes the disk, shown to an observer who may do it, spoil it or die.

The functions of `os` and `io` themselves are replaced, so whatever is built on them (pathlib, json, shutil) is seen
without its knowing. Meant for forked children, which end soon.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REAL = {name: getattr(os, name) for name in ("fsync", "kill", "open", "write")}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_real_open = io.open


@dataclass(frozen=True)
class Operation:
    """One change of the disk.

    Args:
        kind: create (opened for writing), write, fsync, rename, link, symlink, unlink, mkdir, rmdir, truncate, chmod
            or utime.
        path: what is changed; of rename, link and symlink the new name.
        source: of rename and link the other name, of symlink what it says.
        data: of write, the bytes.
        number: of write where, of truncate how long, of chmod the mode, of create 1 if what was there goes.
        mode: of create, that of a file that was not there.
    """

    kind: str
    path: str
    source: str = ""
    data: bytes = b""
    number: int = 0
    mode: int = 0o644


Perform = Callable[..., Any]  # of a write, it takes the bytes to write instead
Observe = Callable[[Operation, Perform], Any]


@contextlib.contextmanager
def watched(observe: Observe, *, sync: bool = False) -> Iterator[None]:
    """Show every operation to `observe`, which returns what `perform` returns; `sync` lets fsync take its time."""
    patches = [(os, name, _wrapped(observe, name, describe, sync)) for name, describe in _NAMED.items()]
    patches += [(os, "open", _low_open(observe)), (os, "write", _low_write(observe))]
    patches += [(module, "open", _high_open(observe)) for module in (io, builtins)]
    before = [(module, name, getattr(module, name)) for module, name, _ in patches]
    for module, name, replacement in patches:
        setattr(module, name, replacement)
    try:
        yield
    finally:
        for module, name, former in before:
            setattr(module, name, former)


def path_of(file: Any) -> str:
    """Return the absolute path of a path, or that of an open file as it is called now."""
    if isinstance(file, int):
        return str(Path(f"/proc/self/fd/{file}").readlink())
    return os.path.abspath(file)  # noqa: PTH100 - no link is to be followed


_NAMED: dict[str, Callable[..., Operation]] = {
    "fsync": lambda file: Operation("fsync", path_of(file)),
    "fdatasync": lambda file: Operation("fsync", path_of(file)),
    "rename": lambda old, new, **_: Operation("rename", path_of(new), source=path_of(old)),
    "replace": lambda old, new, **_: Operation("rename", path_of(new), source=path_of(old)),
    "link": lambda old, new, **_: Operation("link", path_of(new), source=path_of(old)),
    "symlink": lambda says, path, *_, **__: Operation("symlink", path_of(path), source=os.fspath(says)),
    "unlink": lambda path, **_: Operation("unlink", path_of(path)),
    "remove": lambda path, **_: Operation("unlink", path_of(path)),
    "mkdir": lambda path, *_, **__: Operation("mkdir", path_of(path)),
    "rmdir": lambda path, **_: Operation("rmdir", path_of(path)),
    "truncate": lambda path, length: Operation("truncate", path_of(path), number=length),
    "ftruncate": lambda file, length: Operation("truncate", path_of(file), number=length),
    "chmod": lambda path, mode, **_: Operation("chmod", path_of(path), number=mode),
    "fchmod": lambda file, mode: Operation("chmod", path_of(file), number=mode),
    "utime": lambda path, *_, **__: Operation("utime", path_of(path)),
}


def _wrapped(observe: Observe, name: str, describe: Callable[..., Operation], sync: bool) -> Any:
    real = getattr(os, name)
    idle = name in ("fsync", "fdatasync") and not sync

    def operation(*arguments: Any, **options: Any) -> Any:
        perform = (lambda: None) if idle else (lambda: real(*arguments, **options))
        return observe(describe(*arguments, **options), perform)

    return operation


def _low_open(observe: Observe) -> Any:
    def opened(path: Any, flags: int, mode: int = 0o777, **options: Any) -> int:
        if not flags & _WRITES:
            return REAL["open"](path, flags, mode, **options)
        operation = Operation(
            "create", path_of(path), number=int(bool(flags & os.O_TRUNC)), mode=mode & ~0o022
        )
        return observe(operation, lambda: REAL["open"](path, flags, mode, **options))

    return opened


def _low_write(observe: Observe) -> Any:
    def write(file: int, data: Any) -> int:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            return REAL["write"](file, data)
        at = os.lseek(file, 0, os.SEEK_CUR)
        operation = Operation("write", path_of(file), data=bytes(data), number=at)
        return observe(operation, lambda part=data: REAL["write"](file, part))

    return write


def _high_open(observe: Observe) -> Any:
    raw = _raw(observe)

    def opened(
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: Any = None,
        errors: Any = None,
        newline: Any = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        if not set(mode) & set("wax+") or not _is_file(file):
            return _real_open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        plain = mode.replace("b", "").replace("t", "")
        if isinstance(file, int) or opener is not None:  # was seen, or will be, when it is opened
            stream = raw(file, plain, closefd, opener)
        else:
            operation = Operation("create", path_of(file), number=int("w" in mode))
            stream = observe(operation, lambda: raw(file, plain))
        if buffering != 0:
            stream = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(stream)
        return stream if "b" in mode else io.TextIOWrapper(stream, encoding, errors, newline)

    return opened


def _is_file(file: Any) -> bool:
    return not isinstance(file, int) or stat.S_ISREG(os.fstat(file).st_mode)


def _raw(observe: Observe) -> type[io.FileIO]:
    class Raw(io.FileIO):
        """A file whose writes are seen one by one, as the system is asked for them."""

        def write(self, data: Any) -> int:
            operation = Operation("write", path_of(self.fileno()), data=bytes(data), number=self.tell())
            return observe(operation, lambda part=data: io.FileIO.write(self, part))

        def truncate(self, size: int | None = None) -> int:
            length = self.tell() if size is None else size
            operation = Operation("truncate", path_of(self.fileno()), number=length)
            return observe(operation, lambda: io.FileIO.truncate(self, length))

    return Raw
