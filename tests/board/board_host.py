"""A person's computer: a home of its own, and the `pipeline` command run in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulated_board import Board

PACKAGE = Path(__file__).resolve().parents[2]
EMU = "emu"  # what the board is called
PROFILE = Path(__file__).with_name("emulated.toml")
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pip"
_SETTINGS = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "pip" / "pip.conf"


@dataclass(frozen=True)
class Done:
    """What a command printed."""

    out: str
    err: str


@dataclass(frozen=True)
class Host:
    """Configuration, state and cache below one folder; pip alone has those of whoever runs the tests."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Return what commands run with."""
        homes = {
            f"XDG_{what}_HOME": str(self.folder / what.lower())
            for what in ("CONFIG", "STATE", "CACHE", "DATA")
        }
        return {
            "PIP_CACHE_DIR": str(_CACHE),
            **({"PIP_CONFIG_FILE": str(_SETTINGS)} if _SETTINGS.exists() else {}),
            **os.environ,
            **homes,
            "PYTHONPATH": str(PACKAGE),
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
        }

    def pipeline(self, *arguments: str | Path, status: int = 0, timeout_s: float = 600) -> Done:
        """Run a command to its end; its exit status must be `status`."""
        with self.start(*arguments) as process:
            done = Done(*process.communicate(timeout=timeout_s))
        told = f"pipeline {' '.join(map(str, arguments))}: exit status {process.returncode}\n{done.out}\n{done.err}"
        assert process.returncode == status, told
        assert "Traceback" not in done.err, told
        return done

    def json(self, *arguments: str | Path, timeout_s: float = 600) -> Any:
        """Run a command that prints JSON, and return it."""
        text = self.pipeline(*arguments, timeout_s=timeout_s).out
        try:
            return json.loads(text)
        except ValueError:
            raise AssertionError(text) from None

    @contextmanager
    def start(self, *arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
        """Start a command; what is left of it in the end is killed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
        with subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env=self.environment, cwd=self.folder
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    # --- what is asked often ---

    def enroll(self, name: str, board: Board) -> Done:
        """Make a board known."""
        where = ["--port", str(board.port), "--identity", board.identity, "--profile", PROFILE]
        return self.pipeline("device", "enroll", name, f"pi@{board.host}", *where, "--yes")

    def status(self, name: str) -> Any:
        """Return what a device says of itself."""
        return self.json("device", "status", name)

    def measure(self, name: str, model: Path, *options: str) -> Any:
        """Return the measurement of a model on a device."""
        found = self.json("measure", model, "--device", name, *options, "--json", "-")
        return found["devices"][0]["result"]
