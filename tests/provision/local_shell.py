"""This computer in a board's place: commands run with `sh`, and a folder is the home; links break where a test says."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.device.shell import Completed
from pipeline.errors import LinkLostError


class LocalShell:
    """A `Shell` on this computer.

    Args:
        home: the home folder that commands see.
        path: the PATH that they see.
        cut_after: bytes after which each link breaks, one for each link in turn; further ones hold.
        within: a command that runs the shell somewhere else, such as in a namespace.
    """

    name = "device 'bench'"

    def __init__(
        self,
        home: Path,
        path: str | None = None,
        cut_after: tuple[int | None, ...] = (),
        within: tuple[str, ...] = (),
    ) -> None:
        self.environment = {**os.environ, "HOME": str(home)}
        self.environment.pop("PYTHONPATH", None)
        if path is not None:
            self.environment["PATH"] = path
        self.within = within
        self.cuts = list(cut_after)
        self.opened: list[LocalTransport] = []
        self.commands: list[str] = []

    def run(self, command: str, stdin: bytes = b"", *, timeout_s: float = 60.0) -> Completed:
        done = subprocess.run(
            [*self.within, "/bin/sh", "-c", command],
            input=stdin,
            capture_output=True,
            env=self.environment,
            timeout=timeout_s,
            check=False,
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    def transport(self, command: str) -> LocalTransport:
        self.commands.append(command)
        made = LocalTransport(self, command, self.cuts.pop(0) if self.cuts else None)
        self.opened.append(made)
        return made

    def close(self) -> None:
        pass


class LocalTransport:
    """A command's pipes."""

    def __init__(self, shell: LocalShell, command: str, cut_after: int | None) -> None:
        self.name = shell.name
        self._shell = shell
        self._command = command
        self._cut_after = cut_after
        self.process: subprocess.Popen[bytes] | None = None
        self._words = b""

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [*self._shell.within, "/bin/sh", "-c", self._command],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            env=self._shell.environment,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, daemon=True).start()
        assert self.process.stdin
        assert self.process.stdout
        sink = self.process.stdin
        if self._cut_after is not None:
            sink = cast("BinaryIO", CutSink(sink, self._cut_after, self.cut))  # type: ignore[assignment]
        return cast("BinaryIO", self.process.stdout), cast("BinaryIO", sink)

    def cut(self) -> None:
        """Break the link: the other side finds the end of its input, and nobody reads what it says."""
        assert self.process
        for stream in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(_broken_pipe(), cast("BinaryIO", stream).fileno())

    def close(self) -> None:
        if self.process is not None:
            with contextlib.suppress(OSError, ValueError):
                cast("BinaryIO", self.process.stdin).close()

    def last_words(self) -> str:
        assert self.process
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=1.0)
        return f"status {self.process.returncode}: {self._words.decode(errors='replace')[-500:]}"

    def _listen(self) -> None:
        assert self.process
        stream = self.process.stderr
        assert stream
        with contextlib.suppress(ValueError):
            while line := stream.readline():
                self._words += line


def _broken_pipe() -> int:
    """Return the reading end of a pipe that nobody writes to."""
    source, sink = os.pipe()
    os.close(sink)
    return source


class CutSink:
    """Takes so many bytes, then the link is broken."""

    def __init__(self, below: BinaryIO, left: int, cut: Callable[[], None]) -> None:
        self._below = below
        self._left = left
        self._cut = cut

    def write(self, data: Any) -> int:
        piece = bytes(data[: max(1, self._left)])
        if self._left <= 0:
            self._cut()
            raise BrokenPipeError("the link was cut")
        self._left -= len(piece)
        return self._below.write(piece)

    def flush(self) -> None:
        self._below.flush()

    def close(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._below.close()


__all__ = ["LinkLostError", "LocalShell", "LocalTransport"]
