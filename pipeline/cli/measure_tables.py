"""A measurement on the terminal: several devices beside each other, one in detail, its operators."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from pipeline.cli.on_devices import cell, megabytes, state_cell, table
from pipeline.fleet import Outcome
from pipeline.measurement import Conditions, Latency, Measurement

MOST_OPERATORS = 25
_FLAGS = {
    "unsteady": "five parts of the run differ by {steadiness:.1%}; single numbers say little",
    "slowed": "the processor was {slowdown} slower than at full pace, for no reason that the kernel tells",
    "throttled": "the board held its processor back, for heat or for want of current",
    "disturbed": "other programs took {others} of the cores' time",
    "hot": "the board was warmer at the start than the profile allows",
}


def comparison(outcomes: Sequence[Outcome[Measurement]]) -> Table:
    """Return a line a device."""
    shown = table("device", ">p50", ">p90", ">p99", ">cold start", ">model peak", ">energy", "flags")
    for outcome in outcomes:
        name = cell(outcome.device, "bold")
        if (made := outcome.value) is None:
            shown.add_row(name, "", "", "", "", "", "", state_cell(outcome))
            continue
        numbers = [_ms(value) for value in (made.latency_ms.p50, made.latency_ms.p90, made.latency_ms.p99)]
        peak, energy = made.model_peak_bytes, made.energy_mj
        shown.add_row(
            name,
            *numbers,
            _ms(_cold_start_ms(made)),
            "n/a" if peak is None else megabytes(peak),
            "n/a" if energy is None else f"{energy:.4g} mJ",
            cell(", ".join(made.flags).upper(), "bold red"),
        )
    return shown


def details(made: Measurement, *, energy_asked: bool) -> Table:
    """Return what was measured, each figure with how it was made or why there is none."""
    shown = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 2))
    shown.add_column(style="dim", no_wrap=True)
    shown.add_column(overflow="fold")
    latency = made.latency_ms
    threads = "1 thread" if made.threads == 1 else f"{made.threads} threads"
    cores = ("core " if len(made.cores) == 1 else "cores ") + ", ".join(map(str, made.cores))
    rows = [
        ("runtime", f"{made.runtime} {made.runtime_version}, {threads} on {cores}"),
        ("latency", f"p50 {_ms(latency.p50)}, {_tail(made, latency)}"),
        ("", f"mean {_ms(latency.mean)}, min {_ms(latency.min)}, max {_ms(latency.max)}{_spread(made)}"),
        ("runs", f"{made.runs} in {made.duration_s:.1f} s{_attempts(made)}"),
        ("cold start", _cold_start(made)),
        ("model peak", _memory(made)),
        ("energy", _energy(made, asked=energy_asked)),
        ("conditions", _conditions(made)),
    ]
    for name, text in rows:
        shown.add_row(name, cell(text))
    for flag in made.flags:
        shown.add_row(Text("FLAG", style="bold red"), cell(_flag(flag, made), "bold red"))
    for warning in made.warnings:
        shown.add_row(Text("warning", style="yellow"), cell(warning, "yellow"))
    return shown


def operators(made: Measurement) -> Table | Text:
    """Return a line an operator, the longest first, or why there is none."""
    if made.operators is None:
        return cell(
            f"  no times of operators: {made.missing.get('operators', 'the device does not say why')}",
            "yellow",
        )
    shown = table("  operator", "kind", ">p50", ">share", ">so far")
    ordered, sum_so_far = sorted(made.operators, key=lambda each: -each.share), 0.0
    for each in ordered[:MOST_OPERATORS]:
        sum_so_far += each.share
        shown.add_row(
            cell(f"  {each.name}"),
            cell(each.kind),
            _ms(each.p50_ms),
            f"{each.share:.1%}",
            f"{sum_so_far:.1%}",
        )
    if rest := ordered[MOST_OPERATORS:]:
        shown.add_row(
            f"  {len(rest)} more (--json has them)", "", "", f"{sum(each.share for each in rest):.1%}", ""
        )
    return shown


def _tail(made: Measurement, latency: Latency) -> str:
    """Return the percentiles beyond the median; one that cannot be stated says why."""
    parts, reasons = [], {}
    for name in ("p90", "p95", "p99"):
        value: float | None = getattr(latency, name)
        if value is None:
            reasons[name] = made.missing.get(f"latency_ms.{name}", "too few runs")
        else:
            parts.append(f"{name} {_ms(value)}")
    return ", ".join([*parts, *(f"{name} n/a: {why}" for name, why in reasons.items())])


def _spread(made: Measurement) -> str:
    return "" if made.spread_ms is None else f", middle half within {_ms(made.spread_ms)}"


def _attempts(made: Measurement) -> str:
    return "" if made.attempts == 1 else f", the best of {made.attempts} attempts"


def _cold_start_ms(made: Measurement) -> float:
    start = made.cold_start
    return start.spawn_ms + start.load_ms + start.first_inference_ms


def _cold_start(made: Measurement) -> str:
    start = made.cold_start
    return (
        f"{_ms(_cold_start_ms(made))} = process with its runtime {_ms(start.spawn_ms)} + load {_ms(start.load_ms)} "
        f"+ first inference {_ms(start.first_inference_ms)}"
    )


def _memory(made: Measurement) -> str:
    if made.model_peak_bytes is None:
        return f"n/a: {made.missing.get('model_peak_bytes', 'not measured')}"
    whole = f" (process {megabytes(made.process_peak_bytes)})" if made.process_peak_bytes else ""
    return f"{megabytes(made.model_peak_bytes)}{whole}; file {megabytes(made.file_bytes)}"


def _energy(made: Measurement, *, asked: bool) -> str:
    if not asked:
        return "n/a: not asked for (--energy)"
    if made.energy_mj is None or made.energy is None:
        reason = made.missing.get("energy_mj") or "not measured"
        return f"n/a: {reason} [{made.energy_method}]"
    figures = made.energy
    net = "" if figures.net_mj is None else f", net of idle {figures.net_mj:.4g} mJ"
    valid = sum(window.valid for window in figures.windows)
    label = "ESTIMATED, " if figures.estimated else ""
    return (
        f"{made.energy_mj:.4g} mJ an inference{net} [{label}{made.energy_method}, "
        f"{valid} of {len(figures.windows)} windows valid, {figures.rate_hz:.0f} readings a second]"
    )


def _conditions(made: Measurement) -> str:
    before, after, during = made.before, made.after, made.during
    others = (
        "" if during.others_share is None else f"others took {during.others_share:.1%} of the cores' time"
    )
    parts = [
        f"governor {before.governor}" if before.governor else "",
        _change(before, after, "frequency_mhz", "MHz"),
        _change(before, after, "temperature_c", "°C"),
        _change(before, after, "load_1min", "load"),
        others,
        f"slowed for {during.slowed_share:.1%} of the time" if during.slowed_share else "",
    ]
    return ", ".join(part for part in parts if part) or "the board tells nothing"


def _change(before: Conditions, after: Conditions, name: str, unit: str) -> str:
    values = [value for value in (getattr(before, name), getattr(after, name)) if value is not None]
    texts = list(dict.fromkeys(f"{value:.4g}" for value in values))
    return f"{' → '.join(texts)} {unit}" if texts else ""


def _flag(flag: str, made: Measurement) -> str:
    others, slowdown = made.during.others_share, made.during.slowdown
    meaning = _FLAGS.get(flag, "").format(
        steadiness=made.steadiness,
        others="a part" if others is None else f"{others:.1%}",
        slowdown="clearly" if slowdown is None else f"{slowdown:.2g} times",
    )
    return f"{flag.upper()}: {meaning}" if meaning else flag.upper()


def _ms(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.4g} ms"
