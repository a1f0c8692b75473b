"""What a device measured, and how: the values that the device client hands to the rest of the program.

Units are in the names. What the board could not measure is `None`, and `missing` says why; nothing is guessed.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Latency:
    """Time of one inference in milliseconds, over all counted runs of a measurement.

    A percentile is `None` where there were too few runs to state it (p90 ≥ 64, p95 ≥ 130, p99 ≥ 662 runs;
    early-stopping rule of MLPerf Inference at 99 % confidence).
    """

    p50: float
    p90: float | None
    p95: float | None
    p99: float | None
    mean: float
    min: float
    max: float


@dataclass(frozen=True)
class ColdStart:
    """The three parts of a first answer, in milliseconds."""

    spawn_ms: float
    load_ms: float
    first_inference_ms: float


@dataclass(frozen=True)
class Conditions:
    """The state of the board at one moment; `None` where the kernel offers no such reading."""

    governor: str | None
    frequency_mhz: float | None
    temperature_c: float | None
    throttled: bool | None
    load_1min: float | None


@dataclass(frozen=True)
class Measurement:
    """One whole-model measurement, made by the agent in a fresh worker process.

    `process_peak_bytes` is VmHWM of the worker; `model_peak_bytes` is that minus an empty worker with the same
    runtime loaded. `flags` lists what makes the numbers less trustworthy ("unsteady", "throttled").
    `replayed_from` names the run whose record was used instead of a new measurement.
    """

    file_sha256: str
    file_bytes: int
    runtime: str
    runtime_version: str
    threads: int
    cores: tuple[int, ...]
    runs: int
    duration_s: float
    attempts: int
    latency_ms: Latency
    steadiness: float
    cold_start: ColdStart
    process_peak_bytes: int | None
    model_peak_bytes: int | None
    energy_mj: float | None
    energy_method: str
    before: Conditions
    after: Conditions
    flags: tuple[str, ...] = ()
    missing: dict[str, str] = field(default_factory=dict)
    replayed_from: str | None = None


@dataclass(frozen=True)
class LayerTiming:
    """One small model of a latency table: its median time, with the cost of an empty call still in it."""

    file_sha256: str
    p50_ms: float
    runs: int
    error: str | None = None


@dataclass(frozen=True)
class MeasuringProtocol:
    """How a device is to measure; a profile's `[measuring]` table.

    A measurement runs until both `min_runs` and `min_duration_s` are reached, but no longer than
    `max_duration_s`; an unsteady or throttled one is repeated up to `max_attempts` times after `cooldown_s`.
    """

    min_runs: int = 200
    min_duration_s: float = 2.0
    max_duration_s: float = 60.0
    warmup_max_s: float = 5.0
    max_attempts: int = 3
    cooldown_s: float = 2.0
    layer_min_runs: int = 50
    layer_max_duration_s: float = 0.5
    timeout_s: float = 600.0
