"""A board for the tests: an SSH server, and an agent whose daemon runs beside it."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from daemon_process import PACKAGE, Daemon
from sshd import Server


class Board:
    """A server with `device-agent` on its PATH, and the daemon behind that; a context manager."""

    def __init__(self, server: Server, *options: str) -> None:
        self.server = server
        self.daemon = Daemon(server.folder, *options)
        install_agent(server, self.daemon.socket)

    def __enter__(self) -> Board:
        self.server.start()
        self.daemon.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()
        if self.daemon.process is not None and self.daemon.process.poll() is None:
            self.daemon.stop()
        self.server.__exit__()

    def reboot(self) -> None:
        """End everything as a cut of the power does, and start it again on the same disk."""
        self.cut_power()
        self.power_up()

    def cut_power(self) -> None:
        """End the server, its sessions and the agent, with no word to anybody."""
        assert self.daemon.process
        self.server.stop()
        if self.daemon.process.poll() is None:
            self.daemon.process.kill()
            self.daemon.process.wait()

    def power_up(self) -> None:
        """Start what runs on a board."""
        self.daemon.start()
        self.server.start()


def install_agent(
    server: Server, socket: Path, python: str = sys.executable, package: Path = PACKAGE
) -> None:
    """Put the program `device-agent` on a board."""
    server.program(
        "device-agent",
        f"export PYTHONPATH={shlex.quote(str(package))} DEVICE_AGENT_SOCKET={shlex.quote(str(socket))}\n"
        f'exec {shlex.quote(python)} -m device_agent "$@"',
    )


def install_agent_for_everybody(server: Server, socket: Path) -> None:
    """Put a copy of the agent on a board that users without rights can run, too: by the system's own Python."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None or os.getuid() != 0:
        pytest.skip("needs root, for another user, and a python3 that all users may run")
    shutil.copytree(PACKAGE / "device_agent", server.folder / "agent" / "device_agent")
    install_agent(server, socket, python, server.folder / "agent")


def install_script(server: Server, script: Path) -> None:
    """Put a `device-agent` on a board that is a Python script."""
    server.program("device-agent", f'exec {shlex.quote(sys.executable)} {shlex.quote(str(script))} "$@"')


def at_measuring(act: Callable[[], object]) -> Callable[[dict[str, object]], None]:
    """Return what does something as soon as a board tells that it measures."""

    def on_event(event: dict[str, object]) -> None:
        if event["phase"] in ("warmup", "measure"):
            act()

    return on_event


def is_there(board: Board, path: Path) -> bool:
    """Whether a board has a file, whole."""
    stored = board.daemon.state / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
    return stored.is_file() and stored.read_bytes() == path.read_bytes()


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Have a small disk of its own in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},mode=755", "tmpfs", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
