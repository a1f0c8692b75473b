"""The local device: the same agent and the same protocol as on a board, over the pipes of a subprocess."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path
from typing import BinaryIO, cast

from device_agent import wire
from pipeline.errors import TransportError

_TAIL_LINES = 10
_LINE_BYTES = 500
_GRACE_S = 10.0


class LocalTransport:
    """Runs `device-agent stdio` on this host with a state folder of its own.

    The agent leads a process group apart, so that Ctrl-C in the terminal reaches the host alone, which then
    ends its request in good order.
    """

    def __init__(self, state: Path, name: str = "local") -> None:
        self.name = f"device {name!r}"
        self._state = state
        self._process: subprocess.Popen[bytes] | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._drain: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the agent, once it is open."""
        return self._process.pid if self._process else None

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        """See `Transport.open`."""
        command = [
            sys.executable,
            "-P",
            "-m",
            "device_agent",
            "stdio",
            "--standalone",
            "--state",
            str(self._state),
        ]
        pipe = subprocess.PIPE
        try:
            process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=pipe, env=_environment(), start_new_session=True
            )
        except OSError as error:
            raise TransportError(f"{self.name}: the agent cannot be started: {error}") from error
        assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018 - pipes were asked for
        self._process = process
        self._drain = threading.Thread(target=self._listen, args=(process.stderr,), daemon=True)
        self._drain.start()
        return cast("BinaryIO", process.stdout), cast("BinaryIO", process.stdin)

    def close(self) -> None:
        """See `Transport.close`: wait for the agent to end by itself, then kill it."""
        process = self._process
        if process is None:
            return
        try:
            process.wait(timeout=_GRACE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if self._drain is not None:
            self._drain.join(timeout=1.0)

    def last_words(self) -> str:
        """See `Transport.last_words`."""
        if self._process is None:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        if self._drain is not None:
            self._drain.join(timeout=0.2)
        parts = [_ending(self._process.poll()), "\n".join(self._tail)]
        return ": ".join(part for part in parts if part)

    def _listen(self, stream: BinaryIO) -> None:
        with stream:
            while line := stream.readline(_LINE_BYTES):
                self._tail.append(line.decode("utf-8", "replace").rstrip())


def _ending(status: int | None) -> str:
    if status is None:
        return ""
    if status < 0:
        return f"the agent was killed by {signal.Signals(-status).name}"
    return f"the agent ended with exit status {status}"


def _environment() -> dict[str, str]:
    """Let the subprocess find the very agent that this host imports, wherever the user's shell stands."""
    package = str(Path(wire.__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
