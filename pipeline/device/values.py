"""What a device answers, as values; measurements are in `pipeline.measurement`."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.measurement import Conditions


@dataclass(frozen=True)
class Board:
    """The machine that the agent runs on; `None` where it does not say."""

    model: str | None
    soc: str | None
    arch: str
    cores: int
    memory_bytes: int | None
    os: str | None
    python: str
    libc: str | None


@dataclass(frozen=True)
class InstalledRuntime:
    """A runtime that the board could load: its name in profiles, the package it is in, and the version."""

    name: str
    package: str
    version: str


@dataclass(frozen=True)
class UpdateState:
    """Where the board's update stands; `current` and `previous` are digests of bundles."""

    state: str
    generation: int | None
    current: str | None
    previous: str | None


@dataclass(frozen=True)
class BoardStatus:
    """Facts, runtimes and active model of a device."""

    agent_version: str
    protocol: int
    board: Board
    runtimes: tuple[InstalledRuntime, ...]
    sensors: tuple[str, ...]
    conditions: Conditions
    disk_free_bytes: int
    update: UpdateState

    def runtime(self, name: str) -> InstalledRuntime | None:
        """Return the installed runtime of this name, or `None`."""
        return next((runtime for runtime in self.runtimes if runtime.name == name), None)


@dataclass(frozen=True)
class PushReport:
    """What a push did: bytes that went over the wire, and how many files the device had already."""

    sent_bytes: int
    skipped_files: int


@dataclass(frozen=True)
class CheckReport:
    """How the staged model answered the golden input on the device; latency in ms."""

    ok: bool
    max_abs_error: float | None
    tolerance: dict[str, float]
    latency_p50_ms: float | None


@dataclass(frozen=True)
class CollectReport:
    """What a collection removed from the device."""

    removed: int
    freed_bytes: int
