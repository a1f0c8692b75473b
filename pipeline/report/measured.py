"""How each number was made: the facts of all measurements, parted into common and differing ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.measurement import Measurement
from pipeline.report.summary import Candidate, RunSummary
from pipeline.report.words import NBSP, NONE, NOT_MEASURED, count, quantity, seconds, signed_percent

UNREAD = "not readable"
MEMORY_METHOD = "peak of the fresh process minus the peak of an empty one with the same runtime loaded"


@dataclass(frozen=True)
class Facts:
    """`common` holds (fact, value) true of all measurements, `differing` (fact, one value a candidate)."""

    names: tuple[str, ...]
    common: tuple[tuple[str, str], ...]
    differing: tuple[tuple[str, tuple[str, ...]], ...]


@dataclass(frozen=True)
class Prediction:
    """One candidate's predicted and measured latency (p50); errors are relative to what was measured."""

    name: str
    measured_ms: float
    table_ms: float | None
    calibrated_ms: float | None

    def error(self, predicted_ms: float | None) -> str:
        """Return the error of a prediction in percent of what was measured."""
        if predicted_ms is None or self.measured_ms <= 0:
            return NONE
        return signed_percent(predicted_ms / self.measured_ms - 1.0)


def predictions(candidates: Sequence[Candidate]) -> tuple[Prediction, ...]:
    """Return what was predicted and measured for each candidate that had a prediction."""
    return tuple(
        Prediction(each.name, each.latency_ms.p50, each.predicted_ms, each.calibrated_ms)
        for each in candidates
        if each.predicted_ms is not None or each.calibrated_ms is not None
    )


def facts(summary: RunSummary) -> Facts:
    """Return how the candidates' numbers were made. A fact with the same value everywhere is told once."""
    measured = [(each.name, each.measurement) for each in summary.candidates if each.measurement is not None]
    tables = [dict(_facts(measurement)) for _, measurement in measured]
    rows = [(fact, tuple(table.get(fact, NONE) for table in tables)) for fact in _ordered(tables)]
    same = [(fact, values[0]) for fact, values in rows if len(set(values)) == 1]
    return Facts(
        names=tuple(name for name, _ in measured),
        common=tuple(same),
        differing=tuple((fact, values) for fact, values in rows if len(set(values)) > 1),
    )


def _ordered(tables: Sequence[dict[str, str]]) -> list[str]:
    """Return all facts in the order of their first mention."""
    return list(dict.fromkeys(fact for table in tables for fact in table))


def _facts(made: Measurement) -> list[tuple[str, str]]:
    energy = _why(made, "energy_mj") if made.energy_mj is None else quantity(made.energy_mj, "mJ")
    return [
        (
            "Source",
            f"replayed from run {made.replayed_from}" if made.replayed_from else "measured on the device",
        ),
        ("Runtime", f"{made.runtime} {made.runtime_version}"),
        ("Threads", str(made.threads)),
        ("Cores", ", ".join(map(str, made.cores)) or NONE),
        ("Runs counted", count(made.runs)),
        ("Measured for", seconds(made.duration_s)),
        ("Attempts", str(made.attempts)),
        *_latency(made),
        ("Steadiness: medians of five windows", f"{100 * made.steadiness:.1f}{NBSP}% apart"),
        ("Flags", ", ".join(made.flags) or "none"),
        *_conditions(made),
        ("Start of the process", quantity(made.cold_start.spawn_ms, "ms")),
        ("Loading the model", quantity(made.cold_start.load_ms, "ms")),
        ("First inference", quantity(made.cold_start.first_inference_ms, "ms")),
        *_memory(made),
        ("Energy", energy),
        ("Energy method", made.energy_method),
        ("Model file (SHA-256)", f"{made.file_sha256[:12]}…"),
    ]


def _latency(made: Measurement) -> list[tuple[str, str]]:
    latency = made.latency_ms
    rows = [("Latency p50", quantity(latency.p50, "ms"))]
    for name in ("p90", "p95", "p99"):
        value = getattr(latency, name)
        refused = _why(made, f"latency_ms.{name}", "refused")
        rows.append((f"Latency {name}", refused if value is None else quantity(value, "ms")))
    return [
        *rows,
        ("Latency mean", quantity(latency.mean, "ms")),
        ("Latency min to max", f"{quantity(latency.min, 'ms')} to {quantity(latency.max, 'ms')}"),
    ]


def _memory(made: Measurement) -> list[tuple[str, str]]:
    peaks = (("process", made.process_peak_bytes), ("model", made.model_peak_bytes))
    shown = [
        (
            f"Memory peak, {whose}",
            _why(made, f"{whose}_peak_bytes") if peak is None else quantity(peak / 1e6, "MB"),
        )
        for whose, peak in peaks
    ]
    return [*shown, ("Memory method", MEMORY_METHOD)]


def _conditions(made: Measurement) -> list[tuple[str, str]]:
    before, after = made.before, made.after
    pairs = (
        ("Governor", "governor", before.governor, after.governor),
        ("Frequency", "frequency_mhz", _read(before.frequency_mhz, "MHz"), _read(after.frequency_mhz, "MHz")),
        ("Temperature", "temperature_c", _read(before.temperature_c, "°C"), _read(after.temperature_c, "°C")),
        ("Throttled", "throttled", _yes(before.throttled), _yes(after.throttled)),
        ("Load, 1 min", "load_1min", _read(before.load_1min), _read(after.load_1min)),
    )
    return [(name, _pair(first, second, _why(made, key, UNREAD))) for name, key, first, second in pairs]


def _pair(before: str | None, after: str | None, absent: str) -> str:
    if before is None and after is None:
        return absent
    return f"{before}, before and after" if before == after else f"{before or UNREAD} → {after or UNREAD}"


def _why(made: Measurement, what: str, word: str = NOT_MEASURED) -> str:
    """Return that something is not there, and the device's reason if it gave one."""
    reason = made.missing.get(what)
    return f"{word}: {reason}" if reason else word


def _read(value: float | None, unit: str = "") -> str | None:
    return None if value is None else f"{value:.4g}{NBSP}{unit}".rstrip()


def _yes(value: bool | None) -> str | None:
    return None if value is None else "yes" if value else "no"
