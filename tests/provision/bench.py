"""What tests of provisioning share: tiny wheels, other versions of the agent, and a watch that counts or kills."""

from __future__ import annotations

import io
import os
import signal
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.device.provision import boarding, plan, wheels
from pipeline.device.provision.boarding import Package
from pipeline.device.provision.plan import Plan, Wish, make_plan
from pipeline.device.provision.wheels import Selection, Wheel

USER = Wish(system=False)
_ORIGINAL = boarding.package()


def wheel(
    folder: Path, name: str = "tiny", version: str = "1.0", tag: str = "py3-none-any", **files: bytes
) -> Wheel:
    """A wheel of one module; `files` are more entries by name (dots are slashes)."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name.replace('-', '_')}-{version}-{tag}.whl"
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{module}/__init__.py", f"version = {version!r}\n")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nTag: {tag}\n")
        for entry, data in files.items():
            archive.writestr(entry, data)
        archive.writestr(f"{info}/RECORD", "")
    return wheels._read(path)


def choose(patch: pytest.MonkeyPatch, *chosen: Wheel, runtimes: tuple[str, ...] = ()) -> None:
    """Have every board get these wheels."""
    found = Selection(chosen, runtimes, False, ())
    patch.setattr(plan, "select", lambda *_, **__: found)


def be(patch: pytest.MonkeyPatch, version: str, changes: Mapping[str, tuple[str, str]] | None = None) -> None:
    """Have this host's agent be another version, with some of its text changed: file → (what, by what)."""
    original = _ORIGINAL
    memory = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(original.archive)) as old, zipfile.ZipFile(memory, "w") as new:
        for entry in old.infolist():
            text = old.read(entry).decode()
            if entry.filename == "device_agent/__init__.py":
                text = text.replace(f'"{original.version}"', f'"{version}"')
            for name, (what, by) in (changes or {}).items():
                if entry.filename == name:
                    assert what in text
                    text = text.replace(what, by)
            new.writestr(entry, text)
    made = Package(memory.getvalue(), version, f"{version}{sorted((changes or {}).items())}")
    for module in (boarding, plan):
        patch.setattr(module, "package", lambda: made)


class Watch:
    """Keeps what it is told; `at` is called with the number of each step as the step begins."""

    def __init__(self, at: Callable[[int], None] = lambda _: None) -> None:
        self.said: list[str] = []
        self.steps: list[str] = []
        self.bytes = (0, 0)
        self._at = at

    def say(self, text: str) -> None:
        self.said.append(text)

    def sent(self, done: int, of: int) -> None:
        self.bytes = (done, of)

    def step(self, what: str) -> None:
        self.steps.append(what)
        self._at(len(self.steps) - 1)


def kill(lock: Path) -> None:
    """Kill the installer that holds a lock."""
    os.kill(int(lock.read_text()), signal.SIGKILL)


def steps_left(shell: Any, wish: Wish = USER) -> tuple[str, ...]:
    made: Plan = make_plan(shell, wish)
    return made.steps
