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
class During:
    """What happened to the board while it measured; `None` where it does not tell.

    `throttled` holds the moments between two readings, too, where the firmware remembers them. `others_share` is
    the share of the pinned cores' time that went to anything but the model: programs, interrupts, a hypervisor.
    `slowed_share` is the share of the time in which the processor did its own yardstick `slowdown` times slower than at
    full pace, though no account of the kernel tells why; it was left out, unless the flag says "slowed".
    """

    frequency_min_mhz: float | None = None
    frequency_max_mhz: float | None = None
    temperature_max_c: float | None = None
    throttled: bool | None = None
    others_share: float | None = None
    slowed_share: float | None = None
    slowdown: float | None = None


@dataclass(frozen=True)
class OperatorTime:
    """One operator of a model, after the runtime's fusion: its median over `calls`, and its share of all of them.

    From a pass of its own with the runtime's profiler on, which slows inference down: compare shares.
    """

    name: str
    kind: str
    calls: int
    p50_ms: float
    share: float


@dataclass(frozen=True)
class EnergyWindow:
    """A stretch of inferences and its energy in millijoules; `why` says why it is not valid."""

    duration_s: float
    inferences: int
    energy_mj: float | None
    samples: int
    rate_hz: float
    valid: bool
    why: str


@dataclass(frozen=True)
class Energy:
    """Energy per inference in millijoules: the median over the valid windows.

    `gross_mj` is all that the board took; `net_mj` is that minus `idle_mw` for as long as an inference takes.
    `estimated` means that part of the power is modelled. `sampling_cost` is the share of one core that reading
    the sensor took. `missing` says why `gross_mj` is `None`.
    """

    method: str
    estimated: bool
    gross_mj: float | None
    net_mj: float | None
    idle_mw: float | None
    windows: tuple[EnergyWindow, ...]
    rate_hz: float
    sampling_cost: float
    missing: str
    during: During = During()


@dataclass(frozen=True)
class Measurement:
    """One whole-model measurement, made by the agent in a fresh worker process.

    `process_peak_bytes` is VmHWM of the worker; `model_peak_bytes` is that minus an empty worker with the same
    runtime loaded. `spread_ms` is the interquartile range of the runs. `flags` lists what makes the numbers less
    trustworthy: "unsteady", "slowed" (the processor was below its full pace nearly all the time), "throttled",
    "disturbed" (others took more than 3 % of the cores' time), "hot" (it began above the protocol's temperature).
    `warnings` are the device's own words about anything else; `confinement` names what kept the worker from doing harm.
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
    spread_ms: float | None = None
    during: During = During()
    operators: tuple[OperatorTime, ...] | None = None
    energy: Energy | None = None
    warnings: tuple[str, ...] = ()
    confinement: tuple[str, ...] = ()


@dataclass(frozen=True)
class LayerTiming:
    """One small model of a latency table: its median time, with the cost of an empty call still in it."""

    file_sha256: str
    p50_ms: float
    runs: int
    error: str | None = None


@dataclass(frozen=True)
class TimedLayers:
    """One recorded batch of a latency table: the layers in the order of asking, their timings, then second timings."""

    layers: tuple[str, ...]
    timings: tuple[LayerTiming, ...]


@dataclass(frozen=True)
class MeasuringProtocol:
    """How a device is to measure; a profile's `[measuring]` table.

    A measurement runs until both `min_runs` and `min_duration_s` are reached, but no longer than
    `max_duration_s`; one with a flag is repeated up to `max_attempts` times after a cool-down of at least
    `cooldown_s`. `operators` asks for a pass over the single operators, `energy` for `energy_windows` of at least
    `energy_window_s` each; `energy_estimates` permits a sensor that models part of the power. With
    `max_temperature_c` the board cools down to it before it begins; 0 is no limit.
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
    operators: bool = False
    energy: bool = False
    energy_estimates: bool = False
    energy_windows: int = 5
    energy_window_s: float = 10.0
    idle_window_s: float = 5.0
    max_temperature_c: float = 0.0
