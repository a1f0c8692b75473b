"""The service that runs the agent: its unit file, and whether the agent answers on its socket."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

from device_agent.durable import sync_folder
from device_agent.errors import RequestError
from device_agent.install.accounts import run
from device_agent.install.layout import UNIT, Layout
from device_agent.install.tree import PACKAGE
from device_agent.serve.bridge import connect
from device_agent.serve.client import Client
from device_agent.updates.versions import newer

_PYTHON = "/usr/bin/python3"  # as the unit file that comes with the agent has it
_START_S = 90.0
_ANSWER_S = 90.0  # the first answer waits for a look at the board
_ANSWER_AFTER_FAILURE_S = 20.0  # the launcher may go back to another version of its own accord
_PAUSE_S = 0.5


def unit_text(tree: Path) -> str:
    """Return the unit file of a version, for this very Python."""
    text = (tree / PACKAGE / UNIT).read_text(encoding="utf-8")
    return text.replace(f"ExecStart={_PYTHON} ", f"ExecStart={sys.executable} ")


def is_installed(layout: Layout, tree: Path) -> bool:
    """Say whether the unit file is a version's, and the service runs."""
    try:
        same = layout.unit.read_text(encoding="utf-8") == unit_text(tree)
        return same and run(["systemctl", "is-active", UNIT]).strip() == "active"
    except (OSError, RequestError):
        return False


def start(layout: Layout, tree: Path, version: str) -> None:
    """Install a version's unit file, restart the service, and wait until a version not older answers.

    Raises:
        RequestError: `no_agent`: it does not start, or something else answers; the last lines of its log are told.
    """
    write_text(layout.unit, unit_text(tree), 0o644)
    run(["systemctl", "daemon-reload"])
    run(["systemctl", "enable", "--quiet", UNIT])
    seconds = _ANSWER_S
    with contextlib.suppress(RequestError):
        run(["systemctl", "reset-failed", UNIT])
    try:
        run(["systemctl", "restart", UNIT], _START_S)
    except RequestError:
        seconds = _ANSWER_AFTER_FAILURE_S
    answer = _wait(layout.socket, version, seconds)
    if answer:
        raise RequestError("no_agent", f"version {version} did not answer: {answer}", log_lines())


def stop(layout: Layout) -> None:
    """End the service and take its unit file away; none is left to fail."""
    for command in (["systemctl", "disable", "--quiet", "--now", UNIT], ["systemctl", "stop", UNIT]):
        with contextlib.suppress(RequestError):
            run(command, _START_S)
    with contextlib.suppress(FileNotFoundError):
        layout.unit.unlink()
        sync_folder(layout.unit.parent)
    with contextlib.suppress(RequestError):
        run(["systemctl", "daemon-reload"])


def log_lines() -> str:
    """Return the last lines of the service's log, for people."""
    try:
        lines = run(["journalctl", "--unit", UNIT, "--lines", "12", "--no-pager", "--output", "cat"])
    except RequestError:
        return "journalctl -u device-agent says more"
    return f"its log ends with:\n{lines[-2000:].strip()}"


def write_text(path: Path, text: str, mode: int) -> None:
    """Replace a file of the system, all or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        temporary.unlink()
    with os.fdopen(
        os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8"
    ) as stream:
        stream.write(text)
        stream.flush()
        os.fchmod(stream.fileno(), mode)
        os.fsync(stream.fileno())
    os.replace(temporary, path)  # noqa: PTH105
    sync_folder(path.parent)


def _wait(socket: Path, version: str, seconds: float) -> str:
    """Wait for an answer of this version or a newer one; returns what was wrong at last, empty if nothing."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            with Client(connect(socket)) as agent:
                answered = str(agent.ask("status")["agent_version"])
            if not newer(version, answered):
                return ""  # newer: an update by bundle, which the launcher prefers
            wrong = f"version {answered} answers"
        except (RequestError, OSError, KeyError) as error:
            wrong = str(error)
        if time.monotonic() > deadline:
            return wrong
        time.sleep(_PAUSE_S)
