"""Devices by name, for tests: real local agents, ones that cannot start, and simulated boards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from device import SimulatedBoard, SimulatedDevice
from small_bundles import checked

from pipeline.device.client import DeviceClient
from pipeline.device.registry import LocalDevice, write_device

PROFILE = """
[board]
model = "a test's board"
[accuracy]
max_drop = 1.0
[runtime]
threads = 1
[measuring]
min_runs = {min_runs}
min_duration_s = 0.02
max_duration_s = {max_duration_s}
warmup_max_s = 0.05
max_attempts = 1
cooldown_s = 0.0
timeout_s = 60.0
"""


def write_profile(path: Path, min_runs: int = 70, max_duration_s: float = 1.0) -> Path:
    """Write a profile that measures in no time."""
    path.write_text(PROFILE.format(min_runs=min_runs, max_duration_s=max_duration_s))
    return path


class Shelf:
    """The devices of one test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.profile = write_profile(folder / "quick.toml")

    def add(self, *names: str, profile: Path | None = None) -> tuple[str, ...]:
        """Make devices known, each with an agent of its own on this computer."""
        for name in names:
            write_device(LocalDevice(name, str(profile or self.profile), self._folder / f"state-{name}"))
        return names

    def add_dead(self, name: str) -> str:
        """Make a device known whose agent cannot start: its state folder is a file."""
        (self._folder / f"state-{name}").write_text("in the way")
        self.add(name)
        return name


def simulated(boards: dict[str, SimulatedBoard]) -> Callable[..., DeviceClient]:
    """Return what opens simulated boards by name, in place of the registry's."""
    return lambda name, notice=None: SimulatedDevice(boards[name])


class Boards:
    """Simulated boards by name, behind the command line."""

    def __init__(self, shelf: Shelf, folder: Path, names: tuple[str, ...], **how: Any) -> None:
        self.all = {name: SimulatedBoard(**how) for name in shelf.add(*names)}
        self.folder = folder

    def stage(self, bundle: str, *names: str, sequence: int = 0) -> str:
        devices = [SimulatedDevice(self.all[name]) for name in names or self.all]
        (digest,) = {checked(device, self.folder, bundle, sequence) for device in devices}
        return digest

    def active(self, bundle: str, *names: str) -> str:
        digest = self.stage(bundle, *names)
        for name in names or self.all:
            SimulatedDevice(self.all[name]).activate(digest)
            SimulatedDevice(self.all[name]).commit(digest)
        return digest

    def current(self) -> dict[str, str | None]:
        return {name: board.updates.current for name, board in self.all.items()}

    def __getitem__(self, name: str) -> SimulatedBoard:
        return self.all[name]
