"""The tables of a profile file (`profiles/*.toml`): which keys there are, and which values each allows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Literal, TypeGuard, cast

from pydantic import Field, ValidationInfo, field_validator

from pipeline.measurement import MeasuringProtocol as Defaults
from pipeline.toml_files import Table, show
from pipeline.variant import MOST_THREADS, SPELLING, RuntimeName, Storage, parse_variant

Resource = Literal["latency", "model_peak", "file", "energy"]
Percentile = Literal["p50", "p90", "p95", "p99"]

UNITS: dict[Resource, str] = {"latency": "ms", "model_peak": "MB", "file": "MB", "energy": "mJ"}
NO_SENSOR = "none"
ATTACH_SENSOR = 'attach a power monitor such as an INA226 and set board.power_sensor = "hwmon:ina226"'
HIGHEST_SHARE: dict[Resource, float] = {"latency": 1.0, "model_peak": 2.0, "file": 2.0, "energy": 1.0}
_SHARE = re.compile(r"(\d+(?:\.\d+)?|\.\d+) ?%")


def share_of(text: str, resource: Resource) -> float:
    """Return "50%" as 0.5.

    Raises:
        ValueError: not a share, or not in the range that `share_rule` states.
    """
    match = _SHARE.fullmatch(text.strip())
    share = float(match[1]) / 100 if match else math.nan
    if not 0 < share <= HIGHEST_SHARE[resource]:
        raise ValueError(text)
    return share


def share_rule(resource: Resource) -> str:
    """Say which shares of the baseline a resource allows."""
    return f'a share such as "50%" (of the baseline; above 0%, up to {HIGHEST_SHARE[resource]:.0%})'


def _above(unit: str, example: str) -> str:
    return f"{unit} above 0, such as {example}"


class BoardTable(Table):
    """Facts of the board; the agent reports what it really finds, these are for people and for checks."""

    model: str = Field(min_length=1, description="the board's name in quotes")
    soc: str | None = Field(default=None, description="the chip's name in quotes")
    cpu: str | None = Field(default=None, description="the name of its cores in quotes")
    cores: int | None = Field(default=None, ge=1, description="a whole number from 1")
    clock_mhz: float | None = Field(default=None, gt=0, description=_above("a number", "1500"))
    memory_mb: float | None = Field(default=None, gt=0, description=_above("megabytes", "1073"))
    architecture: str | None = Field(default=None, description='as `uname -m` prints it, such as "aarch64"')
    power_sensor: str = Field(
        default=NO_SENSOR, min_length=1, description='"none", or what measures power, such as "hwmon:ina226"'
    )
    notes: str | None = Field(default=None, description="text in quotes")


class RuntimeTable(Table):
    """What runs the model on the board."""

    name: RuntimeName = Field(default="onnxruntime", description='"onnxruntime" or "tflite"')
    threads: int = Field(default=1, ge=1, le=MOST_THREADS, description="a whole number from 1 to 256")
    storage: Storage = Field(default="fp32", description='"fp32", or "fp16" for weights in half precision')
    also: list[str] = Field(
        default=[], description=f"a list of variants to choose from by measurement, each {SPELLING}"
    )

    @field_validator("also")
    @classmethod
    def _are_variants(cls, also: list[str]) -> list[str]:
        for text in also:
            parse_variant(text)
        return also


class BudgetsTable(Table):
    """What the model may cost: shares of the baseline, or absolute with the unit in the name."""

    latency: str | None = Field(default=None, description=share_rule("latency"))
    latency_ms: float | None = Field(default=None, gt=0, description=_above("milliseconds", "20.0"))
    latency_percentile: Percentile = Field(default="p50", description='"p50", "p90", "p95" or "p99"')
    model_peak: str | None = Field(default=None, description=share_rule("model_peak"))
    model_peak_mb: float | None = Field(default=None, gt=0, description=_above("megabytes", "8.0"))
    file: str | None = Field(default=None, description=share_rule("file"))
    file_mb: float | None = Field(default=None, gt=0, description=_above("megabytes", "0.5"))
    energy: str | None = Field(default=None, description=share_rule("energy"))
    energy_mj: float | None = Field(default=None, gt=0, description=_above("millijoules an inference", "3.0"))

    @field_validator(*UNITS)
    @classmethod
    def _is_share(cls, text: str | None, field: ValidationInfo) -> str | None:
        if text is not None:
            share_of(text, cast("Resource", field.field_name))
        return text

    @classmethod
    def contradictions(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        """A budget is either a share or absolute."""
        for resource, unit in UNITS.items():
            absolute = f"{resource}_{unit.lower()}"
            if resource in raw and absolute in raw:
                yield f"{absolute}: found both {resource} and {absolute}; allowed: one of them"


class AccuracyTable(Table):
    """How much accuracy may be lost."""

    max_drop: float | None = Field(
        default=None, ge=0, lt=100, description="percentage points from 0, such as 1.0"
    )
    floor: float | None = Field(
        default=None,
        ge=1,
        le=100,
        description="percent from 1 to 100, such as 91.0 (write the fraction 0.91 as 91.0)",
    )

    @classmethod
    def contradictions(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        """Exactly one of the two."""
        given = [name for name in ("max_drop", "floor") if name in raw]
        if len(given) != 1:
            found = "both max_drop and floor" if given else "neither max_drop nor floor"
            yield f"max_drop: found {found}; allowed: exactly one of them"


class MeasuringTable(Table):
    """How the board is to measure; see `MeasuringProtocol`."""

    min_runs: int = Field(default=Defaults.min_runs, ge=10, description="a whole number from 10")
    min_duration_s: float = Field(default=Defaults.min_duration_s, gt=0, description=_above("seconds", "2.0"))
    max_duration_s: float = Field(
        default=Defaults.max_duration_s, gt=0, description=_above("seconds", "60.0")
    )
    warmup_max_s: float = Field(
        default=Defaults.warmup_max_s, ge=0, description="seconds from 0, such as 5.0"
    )
    max_attempts: int = Field(
        default=Defaults.max_attempts, ge=1, le=20, description="a whole number from 1 to 20"
    )
    cooldown_s: float = Field(default=Defaults.cooldown_s, ge=0, description="seconds from 0, such as 2.0")
    layer_min_runs: int = Field(default=Defaults.layer_min_runs, ge=5, description="a whole number from 5")
    layer_max_duration_s: float = Field(
        default=Defaults.layer_max_duration_s, gt=0, description=_above("seconds", "0.5")
    )
    timeout_s: float = Field(default=Defaults.timeout_s, gt=0, description=_above("seconds", "600.0"))
    operators: bool = Field(default=Defaults.operators, description="true or false")
    energy: bool = Field(default=Defaults.energy, description="true or false")
    energy_estimates: bool = Field(default=Defaults.energy_estimates, description="true or false")
    energy_windows: int = Field(
        default=Defaults.energy_windows, ge=1, le=100, description="a whole number from 1 to 100"
    )
    energy_window_s: float = Field(
        default=Defaults.energy_window_s, gt=0, description=_above("seconds", "10.0")
    )
    idle_window_s: float = Field(
        default=Defaults.idle_window_s, ge=0, description="seconds from 0, such as 5.0"
    )
    max_temperature_c: float = Field(
        default=Defaults.max_temperature_c,
        ge=0,
        le=150,
        description="degrees Celsius from 0 (no limit) to 150",
    )

    @classmethod
    def contradictions(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        """The shorter time must not exceed the longer."""
        pairs = [("min_duration_s", "max_duration_s"), ("max_duration_s", "timeout_s")]
        for low, high in pairs:
            least, most = raw.get(low, getattr(Defaults, low)), raw.get(high, getattr(Defaults, high))
            if _number(least) and _number(most) and least > most:
                yield f"{low}: found {show(least)}; allowed: no more than {high} ({show(most)})"


class ProfileFile(Table):
    """A whole profile."""

    board: BoardTable = Field(description="a table [board] with the board's facts")
    runtime: RuntimeTable = Field(default=RuntimeTable(), description="a table [runtime]")
    budgets: BudgetsTable = Field(default=BudgetsTable(), description="a table [budgets]")
    accuracy: AccuracyTable = Field(description="a table [accuracy] with max_drop or floor")
    measuring: MeasuringTable = Field(default=MeasuringTable(), description="a table [measuring]")

    @classmethod
    def contradictions(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        """What the board's facts rule out."""
        board, runtime, budgets = (_table(raw, name) for name in ("board", "runtime", "budgets"))
        if board.get("power_sensor", NO_SENSOR) == NO_SENSOR:
            for key in ("energy", "energy_mj"):
                if key in budgets:
                    yield (
                        f"budgets.{key}: found {show(budgets[key])} on a board without a power sensor; "
                        f"allowed: no energy budget ({ATTACH_SENSOR})"
                    )
        cores, threads = board.get("cores"), runtime.get("threads")
        if _number(cores) and _number(threads) and threads > cores >= 1:
            yield f"runtime.threads: found {threads}; allowed: 1 to {cores} (board.cores)"
        for text in _texts(runtime.get("also")):
            with suppress(ValueError):
                if _number(cores) and parse_variant(text).threads > cores >= 1:
                    yield f"runtime.also: found {show(text)}; allowed: 1 to {cores} threads (board.cores)"
        memory, peak = board.get("memory_mb"), budgets.get("model_peak_mb")
        if _number(memory) and _number(peak) and peak > memory > 0:
            yield f"budgets.model_peak_mb: found {peak:g}; allowed: up to {memory:g} (board.memory_mb)"


def _table(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    inner = raw.get(name)
    return inner if isinstance(inner, Mapping) else {}


def _texts(value: object) -> list[str]:
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
