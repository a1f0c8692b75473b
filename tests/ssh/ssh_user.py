"""The user's side of the tests: a home with an .ssh folder of its own, a key, and the `pipeline` command."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ssh_keys import Key
from sshd import USER, Server

import pipeline
from pipeline.cli.main import run_command
from pipeline.device.address import SshAddress
from pipeline.device.registry import SshDevice, write_device

ROOT = Path(pipeline.__file__).resolve().parent.parent


@dataclass(frozen=True)
class Ran:
    """How a command ended and what it printed, with its line breaks as spaces."""

    code: int
    out: str
    err: str

    @property
    def got_in(self) -> bool:
        """Whether `User.tries` ended with a command that ran on the board."""
        return self.code == 0 and "the log of this board" in self.out


class User:
    """Somebody at this computer; while the test runs, HOME and all that depends on it is theirs."""

    def __init__(
        self, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], key: Key
    ) -> None:
        self.home = home
        self.key = key
        self.ssh = home / ".ssh"
        self.ssh.mkdir(mode=0o700, parents=True)
        self._capsys = capsys
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
        self.own_key()

    @property
    def environment(self) -> dict[str, str]:
        """What tells programs whose home it is."""
        return {
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "XDG_STATE_HOME": str(self.home / ".local" / "state"),
            "XDG_CACHE_HOME": str(self.home / ".cache"),
            "USER": "somebody",
            "LOGNAME": "somebody",
            "COLUMNS": "500",
        }

    def own_key(self) -> None:
        """Have the key where ssh looks for it."""
        path = self.ssh / "id_ed25519"
        path.write_bytes(self.key.path.read_bytes())
        path.chmod(0o600)
        path.with_suffix(".pub").write_text(self.key.public + " tests\n")

    def config(self, text: str) -> None:
        """Write the ssh_config."""
        (self.ssh / "config").write_text(text)

    def knows(
        self, server: Server, name: str = "board", *, agent: str = "device-agent stdio", **changes: Any
    ) -> str:
        """Have a board in the registry as `enroll` would put it there; return its name."""
        address = SshAddress("127.0.0.1", server.port, USER, None, server.host_key)
        write_device(SshDevice(name, "rpi4", replace(address, **changes), agent))
        return name

    @property
    def devices(self) -> list[str]:
        """The names of all files in the registry, temporary ones too."""
        folder = self.home / ".config" / "pipeline" / "devices"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def run(self, *arguments: str) -> Ran:
        """Run one command in this process."""
        self._capsys.readouterr()
        code = run_command(list(arguments))
        said = self._capsys.readouterr()
        return Ran(code, _plain(said.out), _plain(said.err))

    def tries(self, name: str = "board") -> Ran:
        """Do something that needs no agent on the board, only that one gets in."""
        return self.run("device", "logs", name)

    def run_apart(self, *arguments: str, stdin: str = "", **environment: str) -> Ran:
        """Run one command in a process of its own, as from a shell."""
        done = subprocess.run(
            [sys.executable, "-m", "pipeline", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            cwd=self.home,
            timeout=120,
            check=False,
        )
        return Ran(done.returncode, _plain(done.stdout), _plain(done.stderr))


def _plain(text: str) -> str:
    return " ".join(text.split())
