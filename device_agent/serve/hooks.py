"""Commands that run before and after a measurement: to stop the board's application, and to start it again.

Two executables in one folder, `before-measure` and `after-measure`; either may be missing. What they leave
running must have its output elsewhere (`>/dev/null 2>&1`, or a service manager's).
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Optional

from device_agent.durable import sync_folder
from device_agent.errors import RequestError
from device_agent.work import offspring
from device_agent.work.pipes import Pipes, TooMuchError

BEFORE, AFTER = "before-measure", "after-measure"
LONGEST_S = 60.0
_MARKER = "application-stopped"
_TAIL_CHARACTERS = 500

Warn = Callable[[str], None]


def to_stderr(warning: str) -> None:
    """Print a warning for whoever reads the agent's log."""
    print(f"device-agent: {warning}", file=sys.stderr, flush=True)


class Hooks:
    """The hooks of one agent.

    Args:
        folder: where they lie; `None`: there are none. It and they must belong to root or to the agent's user,
            and nobody else may be able to write to them or to a folder above.
        state: the state folder, for a note that the application is stopped; it outlives the agent.
        longest_s: how long one may take.
    """

    def __init__(self, folder: Optional[Path], state: Path, longest_s: float = LONGEST_S) -> None:
        self._folder = folder
        self._marker = state / _MARKER
        self._longest_s = longest_s
        self._turn = threading.Lock()

    @contextlib.contextmanager
    def around(self, warn: Warn = to_stderr) -> Iterator[None]:
        """Run `before-measure`, the block, and in every case `after-measure`; one such block at a time.

        Args:
            warn: is told when `after-measure` failed; the agent's next start runs it again.

        Raises:
            RequestError: `hook_failed`, if a hook may not be run or `before-measure` fails.
        """
        with self._turn:
            hooks = self._hooks()
            if not hooks:
                yield
                return
            self._mark()
            try:
                if BEFORE in hooks:
                    self._run(BEFORE, hooks[BEFORE])
                yield
            finally:
                self._after(warn)

    def recover(self, warn: Warn = to_stderr) -> None:
        """Run `after-measure` if an agent was killed after `before-measure`, or if it failed then."""
        with self._turn:
            if self._marker.exists():
                self._after(warn)

    def _after(self, warn: Warn) -> None:
        try:
            hooks = self._hooks()
            if AFTER in hooks:
                self._run(AFTER, hooks[AFTER])
            self._marker.unlink()
            sync_folder(self._marker.parent)
        except (RequestError, OSError) as error:
            warn(f"the board's application may still be stopped: {error}")

    def _mark(self) -> None:
        with self._marker.open("wb") as stream:
            os.fsync(stream.fileno())
        sync_folder(self._marker.parent)

    def _hooks(self) -> dict[str, Path]:
        """Return the hooks that are there.

        Raises:
            RequestError: `hook_failed`, if others could have written them.
        """
        if self._folder is None:
            return {}
        paths = {name: (self._folder / name).resolve() for name in (BEFORE, AFTER)}
        found = {name: path for name, path in paths.items() if path.exists()}
        for path in found.values():
            for place in (self._folder.resolve(), path, *path.parents):
                _require_guarded(place)
            if not os.access(path, os.X_OK) or not path.is_file():
                raise _failed(path, "it cannot be executed", f"chmod 755 {path}")
        return found

    def _run(self, name: str, hook: Path) -> None:
        """Run a hook to its end.

        Raises:
            RequestError: `hook_failed`, with the end of what it printed.
        """
        try:
            process = offspring.start(
                [str(hook)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={**os.environ, "DEVICE_AGENT_HOOK": name},
            )
        except OSError as error:
            raise _failed(
                hook, f"it cannot be run: {error.strerror}", "does it begin with #!/bin/sh?"
            ) from error
        try:
            with Pipes(process, process.stdout) as pipes:
                for _ in pipes.lines(self._longest_s):
                    pass
        except TimeoutError:
            raise _failed(hook, f"it took longer than {self._longest_s:g} s and was ended") from None
        except TooMuchError as error:
            raise _failed(hook, str(error)) from error
        finally:
            offspring.end(process)  # only one that still runs: what an ended one started is the application
        if process.returncode != 0:
            said = f": {pipes.tail[-_TAIL_CHARACTERS:]}" if pipes.tail else ""
            raise _failed(hook, f"it ended with status {process.returncode}{said}")


def _require_guarded(place: Path) -> None:
    """Raise `hook_failed` if others than root and the agent's user may change a file or folder.

    In a folder with the sticky bit, such as /tmp, others cannot replace what they do not own.
    """
    facts = place.stat()
    writable = facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    sticky = stat.S_ISDIR(facts.st_mode) and facts.st_mode & stat.S_ISVTX
    if facts.st_uid not in (0, os.geteuid()):
        raise _failed(
            place, f"it belongs to user {facts.st_uid}, not to root or the agent", f"chown root {place}"
        )
    if writable and not sticky:
        raise _failed(place, "others may write to it", f"chmod go-w {place}")


def _failed(path: Path, why: str, hint: str = "") -> RequestError:
    return RequestError("hook_failed", f"the hook {path} failed: {why}", hint)
