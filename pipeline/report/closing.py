"""The closing table's rows: per resource the baseline, the budget, what was reached and the verdict.

The page and the terminal show the same rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.report.summary import AccuracyLine, BudgetLine, Candidate, RunSummary
from pipeline.report.words import NBSP, NONE, NOT_MEASURED, RESOURCES, UNITS, percent, quantities

State = Literal["met", "missed", "unknown", "none"]
WORDS: dict[State, str] = {"met": "met", "missed": "missed", "unknown": NOT_MEASURED, "none": NONE}


@dataclass(frozen=True)
class Row:
    """One line of the closing table, ready to be shown; `stated` is the budget in the user's words."""

    name: str
    baseline: str
    budget: str
    stated: str
    reached: str
    state: State

    @property
    def word(self) -> str:
        """The verdict in a word."""
        return WORDS[self.state]


def closing_rows(summary: RunSummary) -> tuple[Row, ...]:
    """Return a row for each budget, for each resource without one that was measured, and for accuracy."""
    budgeted = [_budget_row(line, summary) for line in summary.budgets]
    having = {line.resource for line in summary.budgets}
    free = [_free_row(name, summary) for name in RESOURCES if name not in having]
    return (*budgeted, *filter(None, free), *_accuracy_rows(summary))


def outcome_heading(summary: RunSummary) -> str:
    """Return what the last column of numbers is about."""
    if summary.reached is not None or summary.nearest is None:
        return "Reached"
    return "Nearest" if summary.status == "infeasible" else "So far"


def figure(resource: str, candidate: Candidate | None, percentile: str = "p50") -> float | None:
    """Return what a candidate was measured to need of a resource, in the unit of `UNITS`."""
    if candidate is None:
        return None
    value: float | None = {
        "latency": getattr(candidate.latency_ms, percentile, None),
        "model_peak": candidate.model_peak_mb,
        "file": candidate.file_mb,
        "energy": candidate.energy_mj,
    }[resource]
    return value


def limit_of(line: BudgetLine, candidate: Candidate | None) -> tuple[float | None, float | None]:
    """Return a candidate's measured figure and the limit it has to keep."""
    own = figure(line.resource, candidate, line.percentile)
    return (line.reached if own is None else own), line.limit


def overrun(line: BudgetLine, candidate: Candidate | None) -> float | None:
    """Return by which share of a budget a candidate overruns it; `None` if that is not known."""
    value, limit = limit_of(line, candidate)
    return None if value is None or not limit else value / limit - 1.0


def _budget_row(line: BudgetLine, summary: RunSummary) -> Row:
    reached = (
        line.reached if line.reached is not None else figure(line.resource, summary.outcome, line.percentile)
    )
    baseline = line.baseline
    if baseline is None:
        baseline = figure(line.resource, summary.baseline, line.percentile)
    shown = quantities((baseline, line.limit, reached), UNITS[line.resource])
    name = RESOURCES[line.resource] + (f" ({line.percentile})" if line.resource == "latency" else "")
    met = line.met
    if met is None and reached is not None and line.limit is not None:
        met = reached <= line.limit
    pending = reached is None and summary.outcome is None
    return Row(
        name=name,
        baseline=shown[0],
        budget=shown[1] if line.limit is not None else line.stated,
        stated=line.stated if line.stated.endswith("%") and line.limit is not None else "",
        reached=NONE if pending else shown[2],
        state="none" if pending else _state(met),
    )


def _free_row(resource: str, summary: RunSummary) -> Row | None:
    values = figure(resource, summary.baseline), figure(resource, summary.outcome)
    if values == (None, None):
        return None
    before, after = quantities(values, UNITS[resource])
    name = RESOURCES[resource] + (" (p50)" if resource == "latency" else "")
    return Row(name, before, NONE, "", NONE if summary.outcome is None else after, "none")


def _accuracy_rows(summary: RunSummary) -> tuple[Row, ...]:
    line, best = summary.accuracy, summary.outcome
    if line is None:
        return ()
    reached, met = _validation(line, summary)
    test = best.accuracy if line.reached_test is None and best is not None else line.reached_test
    # Before recovery an accuracy says nothing about the floor.
    open_end = best is None or best.stage == "fit"
    rows = [
        Row(
            name="Accuracy (validation)",
            baseline=percent(line.baseline_validation),
            budget=f"≥{NBSP}{percent(line.floor)}" if line.floor is not None else NONE,
            stated="" if line.floor is not None else line.stated,
            reached=NONE if best is None else percent(reached),
            state="none" if open_end else _state(met),
        )
    ]
    if line.baseline_test is not None or test is not None:
        rows.append(Row("Accuracy (test)", percent(line.baseline_test), NONE, "", percent(test), "none"))
    return tuple(rows)


def _validation(line: AccuracyLine, summary: RunSummary) -> tuple[float | None, bool | None]:
    """Return the shown candidate's own accuracy and whether it holds the floor."""
    best = summary.outcome
    own = best.validation_accuracy if best is not None else None
    reached = line.reached_validation if own is None else own
    return reached, line.met if reached is None or line.floor is None else reached >= line.floor


def _state(met: bool | None) -> State:
    return "unknown" if met is None else "met" if met else "missed"
