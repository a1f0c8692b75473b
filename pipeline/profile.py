"""Device profiles and budgets: what one board is, what a model may cost there, and how that is measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from pipeline.errors import ProfileError
from pipeline.measurement import Measurement, MeasuringProtocol
from pipeline.profile_file import (
    ATTACH_SENSOR,
    NO_SENSOR,
    UNITS,
    AccuracyTable,
    BudgetsTable,
    Percentile,
    ProfileFile,
    Resource,
    share_of,
    share_rule,
)
from pipeline.resources import shipped_file, shipped_names
from pipeline.toml_files import check, closest, read_toml, show
from pipeline.variant import SPELLING, RuntimeName, Storage, Variant, parse_variant

__all__ = [
    "UNITS",
    "AccuracyFloor",
    "Budget",
    "DeviceProfile",
    "Limit",
    "Resource",
    "load_profile",
    "parse_accuracy",
    "parse_also",
    "parse_budget",
    "reached",
    "with_overrides",
]

_FACTORS: dict[Resource, dict[str, float]] = {
    "latency": {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3},
    "model_peak": {"KB": 1e-3, "kB": 1e-3, "KiB": 1.024e-3, "MB": 1.0, "MiB": 1.048576, "GB": 1e3},
    "file": {"KB": 1e-3, "kB": 1e-3, "KiB": 1.024e-3, "MB": 1.0, "MiB": 1.048576, "GB": 1e3},
    "energy": {"uJ": 1e-3, "mJ": 1.0, "J": 1e3},
}
_EXAMPLES: dict[Resource, str] = {
    "latency": "latency=20ms, latency=p90:20ms or latency=50%",
    "model_peak": "model_peak=8MB or model_peak=60%",
    "file": "file=0.5MB or file=60%",
    "energy": "energy=3mJ or energy=50%",
}
_VALUE = re.compile(r"(?:(?P<percentile>\w+):)?\s*(?P<number>\d+(?:\.\d+)?|\.\d+)\s*(?P<unit>%|[A-Za-zµ]+)")
_WHY_MISSING: dict[Resource, str] = {"model_peak": "model_peak_bytes", "energy": "energy_mj"}


@dataclass(frozen=True)
class Limit:
    """A budget in absolute numbers: `value` in ms, MB (10**6 bytes) or mJ."""

    resource: Resource
    value: float
    percentile: str
    stated: str


@dataclass(frozen=True)
class Budget:
    """What a resource may cost: either `limit` (ms, MB, MB, mJ) or `share` (0..2) of the baseline.

    `percentile` matters for latency alone; `stated` is the value as the user wrote it ("50%", "20 ms").
    """

    resource: Resource
    limit: float | None
    share: float | None
    percentile: str = "p50"
    stated: str = ""

    def resolve(self, baseline: Measurement) -> Limit:
        """Return the absolute limit, given the measured baseline.

        Raises:
            ProfileError: a share of something that the device could not measure.
        """
        if self.limit is not None:
            return Limit(self.resource, self.limit, self.percentile, self.stated)
        whole = reached(self.resource, baseline, self.percentile)
        if whole is None or self.share is None:
            raise _not_measured(self, baseline)
        return Limit(self.resource, self.share * whole, self.percentile, self.stated)


@dataclass(frozen=True)
class AccuracyFloor:
    """The accuracy that must remain: `max_drop` percentage points below the baseline, or `floor` percent."""

    max_drop: float | None
    floor: float | None

    def resolve(self, baseline_percent: float) -> float:
        """Return the lowest accuracy allowed, in percent."""
        if self.floor is not None:
            return self.floor
        return baseline_percent - (self.max_drop or 0.0)

    @property
    def stated(self) -> str:
        """The rule in words."""
        if self.floor is not None:
            return f"at least {self.floor:g} %"
        return f"at most {self.max_drop} points below the baseline"


@dataclass(frozen=True)
class DeviceProfile:
    """One kind of board: facts, runtime, default budgets, accuracy, measuring; read from `source`.

    `also` are the variants that a deploy measures beside the profile's own, to choose the best.
    """

    name: str
    board: dict[str, str | int | float]
    runtime: RuntimeName
    threads: int
    budgets: tuple[Budget, ...]
    accuracy: AccuracyFloor
    measuring: MeasuringProtocol
    source: str
    storage: Storage = "fp32"
    also: tuple[Variant, ...] = ()

    @property
    def variant(self) -> Variant:
        """How this profile runs a model."""
        return Variant(self.runtime, self.threads, self.storage)

    def running(self, variant: Variant) -> DeviceProfile:
        """Return the profile of the same board that runs a model as `variant` says."""
        return replace(self, runtime=variant.runtime, threads=variant.threads, storage=variant.storage)


def reached(resource: Resource, measurement: Measurement, percentile: str = "p50") -> float | None:
    """Return the measured cost in ms, MB or mJ; None where the device could not measure it."""
    if resource == "latency":
        value: float | None = getattr(measurement.latency_ms, percentile)
        return value
    if resource == "file":
        return measurement.file_bytes / 1e6
    if resource == "energy":
        return measurement.energy_mj
    peak = measurement.model_peak_bytes
    return None if peak is None else peak / 1e6


def load_profile(name_or_path: str) -> DeviceProfile:
    """Return the shipped profile of that name, or the one in a file ("my/board.toml").

    Raises:
        ProfileError: unknown name, unreadable file, or faults in it (all of them, one a line).
    """
    path = _find(name_or_path)
    checked = check(read_toml(path, ProfileError), ProfileFile, str(path), ProfileError)
    budgets = _budgets(checked.budgets)
    return DeviceProfile(
        name=path.stem,
        board=checked.board.model_dump(exclude_none=True),
        runtime=checked.runtime.name,
        threads=checked.runtime.threads,
        budgets=budgets,
        accuracy=AccuracyFloor(**checked.accuracy.model_dump()),
        measuring=_measuring(MeasuringProtocol(**checked.measuring.model_dump()), budgets),
        source=str(path),
        storage=checked.runtime.storage,
        also=_distinct(map(parse_variant, checked.runtime.also)),
    )


def _distinct(variants: Iterable[Variant]) -> tuple[Variant, ...]:
    return tuple(dict.fromkeys(variants))


def _measuring(protocol: MeasuringProtocol, budgets: Sequence[Budget]) -> MeasuringProtocol:
    """Return the protocol with energy measured if there is a budget for it."""
    wanted = any(budget.resource == "energy" for budget in budgets)
    return replace(protocol, energy=True) if wanted else protocol


def parse_budget(text: str) -> Budget:
    """Read a budget given by flag: "latency=20ms", "latency=p90:20ms", "latency=50%", "file=0.5MB".

    Raises:
        ProfileError: unknown resource, no unit, or a value that is not above 0.
    """
    name, _, value = (part.strip() for part in text.partition("="))
    resource = next((known for known in UNITS if known == name), None)
    if resource is None:
        known = f"{closest(name, UNITS)}allowed: {', '.join(_EXAMPLES.values())}"
        raise ProfileError(f"budget {show(text)}: unknown resource {show(name)}; {known}")
    match = _VALUE.fullmatch(value)
    percentile = (match and match["percentile"]) or "p50"
    if match is None or percentile not in _percentiles(resource):
        raise _refused(text, value, _EXAMPLES[resource])
    stated = value.removeprefix(f"{percentile}:").strip()
    if match["unit"] == "%":
        return Budget(resource, None, _flag_share(text, stated, resource), percentile, stated)
    factor = _FACTORS[resource].get(match["unit"])
    limit = float(match["number"]) * (factor or 0.0)
    if limit <= 0:
        raise _refused(text, value, f"a number above 0 with its unit: {_EXAMPLES[resource]}")
    return Budget(resource, limit, None, percentile, stated)


def with_overrides(
    profile: DeviceProfile,
    budgets: Sequence[Budget],
    runtime: str | None,
    threads: int | None,
    accuracy: AccuracyFloor | None = None,
    also: Sequence[Variant] = (),
) -> DeviceProfile:
    """Return the profile as the flags change it: a budget replaces the profile's on the same resource.

    Variants replace all those of the profile.

    Raises:
        ProfileError: two budgets for one resource, energy on a board without a sensor, unknown runtime, more
            threads than the board has cores.
    """
    given = {budget.resource: budget for budget in budgets}
    if len(given) < len(budgets):
        raise ProfileError("two budgets for the same resource", hint="give each resource once")
    if "energy" in given and profile.board.get("power_sensor", NO_SENSOR) == NO_SENSOR:
        raise ProfileError(
            f"budget energy={given['energy'].stated}: the board of {profile.name} has no power sensor",
            hint=ATTACH_SENSOR,
        )
    kept = tuple(budget for budget in profile.budgets if budget.resource not in given)
    all_budgets = kept + tuple(budgets)
    return replace(
        profile,
        budgets=all_budgets,
        measuring=_measuring(profile.measuring, all_budgets),
        accuracy=accuracy or profile.accuracy,
        runtime=profile.runtime if runtime is None else _known_runtime(runtime),
        threads=profile.threads if threads is None else _possible_threads(threads, profile),
        also=_distinct(also) or profile.also,
    )


def parse_also(text: str, profile: DeviceProfile) -> Variant:
    """Read a variant given by flag: "tflite", "onnxruntime:4", "tflite:1:fp16".

    Raises:
        ProfileError: it is none, or has more threads than the board has cores.
    """
    try:
        variant = parse_variant(text)
    except ValueError:
        raise ProfileError(f"variant {show(text)}; allowed: {SPELLING}") from None
    _possible_threads(variant.threads, profile)
    return variant


def parse_accuracy(max_drop: float | None, floor: float | None) -> AccuracyFloor | None:
    """Read the accuracy rule given by flags; None where none was given.

    Raises:
        ProfileError: both were given, or a value that no accuracy can have.
    """
    if max_drop is None and floor is None:
        return None
    given = {name: value for name, value in (("max_drop", max_drop), ("floor", floor)) if value is not None}
    checked = check(given, AccuracyTable, "--max-drop or --floor", ProfileError)
    return AccuracyFloor(**checked.model_dump())


def _find(name_or_path: str) -> Path:
    path = Path(name_or_path).expanduser()
    if path.suffix == ".toml" or len(path.parts) > 1:
        if not path.is_file():
            raise ProfileError(f"profile {path}: no such file", hint=f"shipped profiles: {_known_profiles()}")
        return path
    shipped = shipped_file("profiles", name_or_path)
    if shipped is None:
        guess = closest(name_or_path, shipped_names("profiles"))
        raise ProfileError(
            f"unknown profile {show(name_or_path)}",
            hint=f"{guess}known: {_known_profiles()}; or give the path of a .toml file",
        )
    return shipped


def _known_profiles() -> str:
    return ", ".join(shipped_names("profiles"))


def _budgets(table: BudgetsTable) -> tuple[Budget, ...]:
    found: list[Budget] = []
    for resource, unit in UNITS.items():
        share: str | None = getattr(table, resource)
        limit: float | None = getattr(table, f"{resource}_{unit.lower()}")
        percentile = table.latency_percentile if resource == "latency" else "p50"
        if share is not None:
            found.append(Budget(resource, None, share_of(share, resource), percentile, share))
        elif limit is not None:
            found.append(Budget(resource, limit, None, percentile, f"{limit:g} {unit}"))
    return tuple(found)


def _percentiles(resource: Resource) -> tuple[str, ...]:
    return get_args(Percentile) if resource == "latency" else ("p50",)


def _flag_share(text: str, stated: str, resource: Resource) -> float:
    try:
        return share_of(stated, resource)
    except ValueError:
        raise _refused(text, stated, share_rule(resource)) from None


def _refused(text: str, found: str, allowed: str) -> ProfileError:
    return ProfileError(f"budget {show(text)}: found {show(found)}; allowed: {allowed}")


def _not_measured(budget: Budget, baseline: Measurement) -> ProfileError:
    key = _WHY_MISSING.get(budget.resource, budget.percentile)
    reason = baseline.missing.get(key, "too few runs" if budget.resource == "latency" else "not measured")
    what = f"{budget.resource} {budget.percentile}" if budget.resource == "latency" else budget.resource
    return ProfileError(
        f"budget {what} = {budget.stated}: the device could not measure the baseline's ({reason})",
        hint="give an absolute budget for something it measures, drop this one, or raise measuring.min_runs"
        if budget.resource == "latency"
        else "drop this budget, or run on a device that measures it",
    )


def _known_runtime(name: str) -> RuntimeName:
    for known in get_args(RuntimeName):
        if name == known:
            found: RuntimeName = known
            return found
    raise ProfileError(f"unknown runtime {show(name)}; allowed: {', '.join(get_args(RuntimeName))}")


def _possible_threads(threads: int, profile: DeviceProfile) -> int:
    cores = int(profile.board.get("cores", 256))
    if not 1 <= threads <= cores:
        raise ProfileError(f"threads: found {threads}; allowed: 1 to {cores} on {profile.name}")
    return threads
