"""The one sentence at the top of a report, and what follows from it, in words a newcomer understands."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.report.closing import limit_of, overrun
from pipeline.report.summary import RunSummary
from pipeline.report.words import RESOURCES, UNITS, listed, percent, quantities, quantity

STATUS_WORDS = {
    "met": "Budgets met",
    "infeasible": "Budgets not met",
    "failed": "Failed",
    "running": "Not finished",
}
KEPT = "The device keeps the model it had."


@dataclass(frozen=True)
class Verdict:
    """The chip, the headline and the sentence below it."""

    status: str
    headline: str
    detail: str


def verdict(summary: RunSummary) -> Verdict:
    """Say in plain words what came of the run."""
    headline, detail = {"met": _met, "infeasible": _infeasible, "failed": _failed, "running": _running}[
        summary.status
    ](summary)
    return Verdict(STATUS_WORDS[summary.status], headline, detail)


def _met(summary: RunSummary) -> tuple[str, str]:
    parts = [part for part in (_speed(summary), _accuracy(summary), _active(summary)) if part]
    sentence = ", ".join(parts) or "Every budget was met"
    return sentence[0].upper() + sentence[1:], _sizes(summary)


def _infeasible(summary: RunSummary) -> tuple[str, str]:
    best = summary.outcome
    if best is None:
        return "The budgets can’t be met on this device", summary.message or KEPT
    missed = [line for line in summary.budgets if (overrun(line, best) or 0.0) > 0]
    names = [RESOURCES[line.resource].lower() for line in missed]
    if summary.accuracy is not None and summary.accuracy.met is False:
        names.append("accuracy")
    way = f": {listed(names)} {'is' if len(names) == 1 else 'are'} in the way" if names else ""
    worst = max(missed, key=lambda line: overrun(line, best) or 0.0, default=None)
    detail = KEPT
    if worst is not None:
        got, limit = quantities(limit_of(worst, best), UNITS[worst.resource])
        detail = f"The nearest candidate, {best.name}, reaches {got} where the budget is {limit}. {KEPT}"
    elif "accuracy" in names and summary.accuracy is not None:
        got_percent, floor = percent(summary.accuracy.reached_validation), percent(summary.accuracy.floor)
        detail = (
            f"Recovered, the model reaches {got_percent} on validation where the floor is {floor}. {KEPT}"
        )
    return f"The budgets can’t be met on this device{way}", detail


def _failed(summary: RunSummary) -> tuple[str, str]:
    if _active(summary):
        return "The new model is active, but the run failed afterwards", _as_sentence(summary.message)
    if summary.baseline is None:
        headline = "The run failed before anything was measured"
    else:
        headline = "The run failed before a model could be activated"
    return headline, " ".join(filter(None, (_as_sentence(summary.message), KEPT)))


def _running(summary: RunSummary) -> tuple[str, str]:
    measured = len(summary.candidates)
    so_far = (
        f"{measured} model{'' if measured == 1 else 's'} measured so far."
        if measured
        else "Nothing measured yet."
    )
    return "The run is not finished", " ".join(filter(None, (so_far, _as_sentence(summary.message))))


def _speed(summary: RunSummary) -> str:
    if summary.baseline is None or summary.reached is None:
        return ""
    before, after = summary.baseline.latency_ms.p50, summary.reached.latency_ms.p50
    if before <= 0 or after <= 0:
        return ""
    ratio = before / after
    if 0.95 < ratio < 1.05:
        return "about as fast as before on this device"
    return f"{ratio:.1f}× faster on this device" if ratio > 1 else f"{1 / ratio:.1f}× slower on this device"


def _accuracy(summary: RunSummary) -> str:
    line = summary.accuracy
    if line is None:
        return ""
    before, after, where = line.baseline_test, line.reached_test, ""
    if before is None or after is None:
        before, after, where = line.baseline_validation, line.reached_validation, " (on validation)"
    if before is None or after is None:
        return ""
    points = f"{abs(after - before):.1f}"
    if points == "0.0":
        return f"as accurate as before{where}"
    noun = "point" if points == "1.0" else "points"
    return f"{points} {noun} {'more' if after > before else 'less'} accurate{where}"


def _active(summary: RunSummary) -> str:
    generation = summary.bundle.generation if summary.bundle is not None else None
    return "" if generation is None else f"running now as generation {generation}"


def _sizes(summary: RunSummary) -> str:
    if summary.baseline is None or summary.reached is None:
        return summary.message
    pairs = (
        ("One inference takes", summary.baseline.latency_ms.p50, summary.reached.latency_ms.p50, "ms"),
        ("the model file has", summary.baseline.file_mb, summary.reached.file_mb, "MB"),
    )
    said = [
        f"{what} {quantity(after, unit)} instead of {quantity(before, unit)}"
        for what, before, after, unit in pairs
        if before is not None and after is not None
    ]
    return ", ".join(said) + "."


def _as_sentence(text: str) -> str:
    text = text.strip()
    end = "" if text.endswith((".", "!", "?", ")")) or not text else "."
    return text[:1].upper() + text[1:] + end
