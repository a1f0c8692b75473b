"""What a device answers, as values; measurements are in `pipeline.measurement`."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    """Where the board's update stands; `current`, `previous` and `staged` are digests of bundles.

    `staged` is the one on its way to being active, until its activation. `sequence` is the highest that was activated
    there, `bad` says why bundles are refused, `last` is what the device did of its own accord, `fault` what keeps it
    from ending an update.
    """

    state: str
    generation: int | None
    current: str | None
    previous: str | None
    waits_for_confirmation: bool = False
    sequence: int = 0
    bad: dict[str, str] = field(default_factory=dict)
    last: str = ""
    fault: str | None = None
    staged: str | None = None


@dataclass(frozen=True)
class ActiveModel:
    """What the current bundle's manifest says of itself."""

    name: str
    sequence: int
    file: str
    runtime: str
    threads: int


@dataclass(frozen=True)
class LeaseState:
    """Who has the turn to measure, for how many seconds more, and how many wait."""

    holder: str | None
    seconds_left: float | None
    waiting: int


@dataclass(frozen=True)
class PastMeasurement:
    """A measurement that the agent remembers; `at` is the board's clock, seconds since 1970."""

    file_sha256: str
    runtime: str
    threads: int
    runs: int
    p50_ms: float
    energy_mj: float | None
    flags: tuple[str, ...]
    at: float
    by: str


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
    trust: str = "any bundle"
    uptime_s: float | None = None
    lease: LeaseState | None = None
    last_measurements: tuple[PastMeasurement, ...] = ()
    active: ActiveModel | None = None

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
    """How the staged model answered the golden input on the device, and why it was refused; latency in ms."""

    ok: bool
    max_abs_error: float | None
    tolerance: dict[str, float]
    latency_p50_ms: float | None
    why: str = ""


@dataclass(frozen=True)
class CollectReport:
    """What a collection removed from the device."""

    removed: int
    freed_bytes: int
