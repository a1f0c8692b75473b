"""The plots of a report, one function each: a figure as inline SVG, or `None` where there is nothing to draw.

They are narrow and have few ticks, so that they can be read on a phone. Names in them are the user's and are
never read as markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from pipeline.report.closing import figure
from pipeline.report.measured import Prediction
from pipeline.report.summary import BudgetLine, Candidate, LayerLine, RunSummary
from pipeline.report.svg import ACCENT, BAD, BEFORE, CARD, GOOD, INK, LINE, SOFT, ZONE, canvas, inline
from pipeline.report.words import NBSP, count, listed, number, percent, printable, quantity, shortened

WIDTH_IN = 3.6
ROW_IN = 0.19
MAX_ROWS = 60
MOST_NAMES = (
    6  # beside the marks of the accuracy plot; of more, only the baseline and the recovered have theirs
)


@dataclass(frozen=True)
class Mark:
    """A candidate in the accuracy plot; `y` is `None` where its accuracy was not measured."""

    name: str
    stage: str
    x: float
    y: float | None


def accuracy_against_latency(summary: RunSummary) -> Markup | None:
    """Draw every candidate's validation accuracy against its measured latency, with the budget and the floor.

    Models before recovery are hollow. Those far below the floor would squeeze the rest together, so they
    stand in a strip of their own below, with their accuracy in words.
    """
    budget = _latency_budget(summary)
    percentile = budget.percentile if budget is not None else "p50"
    marks = _marks(summary.candidates, percentile)
    if not marks:
        return None
    limit = budget.limit if budget is not None else None
    floor = summary.accuracy.floor if summary.accuracy is not None else None
    shown, below = _split(marks, floor)
    strip = (0.2 + 0.2 * len(below)) if below else 0.0
    with canvas(WIDTH_IN, 3.1 + strip) as drawing:
        axes, low = _panels(drawing, strip)
        _limits(
            axes, [mark.x for mark in marks], limit, [mark.y for mark in shown if mark.y is not None], floor
        )
        _target(axes, limit, floor)
        _points(axes, shown)
        if low is not None:
            _strip(low, below, limit)
        (low or axes).set_xlabel(f"measured latency {percentile}, ms")
        axes.set_ylabel("validation accuracy, %")
        return inline(drawing, "accuracy", _accuracy_words(marks, percentile, limit, floor))


def predicted_against_measured(rows: Sequence[Prediction]) -> Markup | None:
    """Draw each candidate's predicted latency, by the table alone and after feedback, beside the measured."""
    if not rows:
        return None
    with canvas(WIDTH_IN, 1.0 + 0.42 * len(rows)) as drawing:
        axes = drawing.subplots()
        for place, row in enumerate(rows):
            _prediction(axes, place, row)
        _row_labels(axes, [shortened(row.name) for row in rows])
        axes.margins(x=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3))
        axes.grid(axis="x", color=LINE, linewidth=0.5)
        axes.set_axisbelow(True)
        axes.set_xlabel("latency p50, ms")
        _prediction_legend(drawing)
        said = listed([f"{row.name}: {quantity(row.measured_ms, 'ms')}, {_errors(row)}" for row in rows])
        return inline(drawing, "predicted", printable(f"Predicted and measured latency. {said}."))


def widths(layers: Sequence[LayerLine]) -> Markup | None:
    """Draw each layer's output width before and after."""
    rows = layers[:MAX_ROWS]
    if not rows:
        return None
    with canvas(WIDTH_IN, 0.7 + ROW_IN * len(rows)) as drawing:
        axes = drawing.subplots()
        top = max(row.out_before for row in rows)
        for place, row in enumerate(rows):
            after = row.out_before if row.out_after is None else row.out_after
            axes.barh(place, row.out_before, 0.66, color=BEFORE)
            axes.barh(place, after, 0.66, color=ACCENT)
            said = f"{row.out_before}" if after == row.out_before else f"{row.out_before} → {after}"
            axes.text(row.out_before + 0.02 * top, place, said, va="center_baseline", fontsize=8.0)
        _row_labels(axes, [shortened(row.name) for row in rows])
        axes.set_xlim(0, 1.24 * top)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
        axes.set_xlabel("output width (channels or features)")
        _before_after_legend(drawing)
        return inline(drawing, "widths", _widths_words(layers))


def layer_times(layers: Sequence[LayerLine]) -> Markup | None:
    """Draw each layer's time on the device before and after, as pairs of bars."""
    rows = layers[:MAX_ROWS]
    if not any(row.ms_before is not None or row.ms_after is not None for row in rows):
        return None
    with canvas(WIDTH_IN, 0.7 + ROW_IN * len(rows)) as drawing:
        axes = drawing.subplots()
        for place, row in enumerate(rows):
            if row.ms_before is None and row.ms_after is None:
                axes.text(0, place, " not timed", va="center_baseline", fontsize=8.0, color=SOFT)
            axes.barh(place - 0.19, row.ms_before or 0.0, 0.36, color=BEFORE)
            axes.barh(place + 0.19, row.ms_after or 0.0, 0.36, color=ACCENT)
        _row_labels(axes, [shortened(row.name) for row in rows])
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3))
        axes.set_xlabel("time of the layer alone, ms")
        _before_after_legend(drawing)
        return inline(drawing, "times", _times_words(layers))


def _latency_budget(summary: RunSummary) -> BudgetLine | None:
    return next((line for line in summary.budgets if line.resource == "latency"), None)


def _marks(candidates: Sequence[Candidate], percentile: str) -> list[Mark]:
    placed = [(each, figure("latency", each, percentile)) for each in candidates]
    return [Mark(each.name, each.stage, x, each.validation_accuracy) for each, x in placed if x is not None]


def _split(marks: Sequence[Mark], floor: float | None) -> tuple[list[Mark], list[Mark]]:
    """Part the marks that share the main panel from those too far below, or without an accuracy."""
    main = [mark.y for mark in marks if mark.y is not None and mark.stage != "fit"] + (
        [floor] if floor else []
    )
    if not main:
        main = [mark.y for mark in marks if mark.y is not None]
    lowest = min(main) - max(2.0, max(main) - min(main)) if main else 0.0
    shown = [mark for mark in marks if mark.y is not None and mark.y >= lowest]
    return shown, [mark for mark in marks if mark not in shown]


def _panels(drawing: Figure, strip: float) -> tuple[Axes, Axes | None]:
    if not strip:
        return drawing.subplots(), None
    axes, low = drawing.subplots(2, 1, sharex=True, height_ratios=[2.5, strip])
    axes.tick_params(axis="x", length=0)
    axes.spines["bottom"].set_visible(False)
    return axes, low


def _limits(
    axes: Axes, xs: Sequence[float], limit: float | None, ys: Sequence[float], floor: float | None
) -> None:
    across = [*xs, limit] if limit is not None else list(xs)
    gap = 0.14 * (max(across) - min(across)) or 0.1 * max(across) or 1.0
    axes.set_xlim(max(0.0, min(across) - gap), max(across) + gap)
    along = [*ys, floor] if floor is not None else list(ys)
    if along:
        gap = max(0.2 * (max(along) - min(along)), 0.25)
        axes.set_ylim(min(along) - gap, max(along) + gap)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10], min_n_ticks=3))
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _target(axes: Axes, limit: float | None, floor: float | None) -> None:
    """Draw the budget and the floor, and shade where both hold."""
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    if limit is not None and floor is not None:
        axes.fill_between([left, limit], floor, high, color=ZONE, linewidth=0)
    if limit is not None:
        axes.axvline(limit, color=GOOD, linewidth=1.1, linestyle=(0, (4, 2)))
        side = "right" if limit > (left + right) / 2 else "left"
        said = f"budget {quantity(limit, 'ms')}"
        axes.annotate(
            said, (limit, 1.015), xycoords=("data", "axes fraction"), ha=side, va="bottom", color=GOOD
        )
    if floor is not None:
        axes.axhline(floor, color=GOOD, linewidth=1.1, linestyle=(0, (4, 2)))
        said = f"floor {percent(floor)}"
        axes.annotate(
            said, (1.0, floor), (0, -2.5), xycoords=("axes fraction", "data"), textcoords="offset points",
            ha="right", va="top", color=GOOD,
        )  # fmt: skip
    axes.set_ylim(low, high)


def _points(axes: Axes, marks: Sequence[Mark]) -> None:
    """Draw the marks with their names, moved apart where they would lie on each other."""
    left, right = axes.get_xlim()
    low, high = axes.get_ylim()
    taken: list[float] = []  # on either side: names grow towards the middle, where they may meet
    for mark in sorted(marks, key=lambda each: -(each.y or 0.0)):
        if mark.y is None:
            continue
        axes.plot(mark.x, mark.y, **_look(mark.stage))
        if len(marks) > MOST_NAMES and mark.stage != "recovered" and mark.name != "baseline":
            continue  # too many names to be read; the tables have them
        rightwards = mark.x < (left + right) / 2
        y = (mark.y - low) / (high - low)
        while any(abs(y - other) < 0.075 for other in taken):
            y -= 0.01
        taken.append(y)
        axes.annotate(
            f"{shortened(mark.name)} {percent(mark.y)}", (mark.x, y), (6 if rightwards else -6, 0),
            xycoords=("data", "axes fraction"), textcoords="offset points",
            ha="left" if rightwards else "right", va="center_baseline",
        )  # fmt: skip


def _strip(axes: Axes, marks: Sequence[Mark], limit: float | None) -> None:
    """Draw the marks that are far below, a row each, in no scale of accuracy."""
    left, right = axes.get_xlim()
    axes.set_ylim(len(marks) - 0.4, -0.75)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.axhline(-0.75, color=LINE, linewidth=1.6, linestyle=(0, (1, 1.5)))
    if limit is not None:
        axes.axvline(limit, color=GOOD, linewidth=1.1, linestyle=(0, (4, 2)))
    for row, mark in enumerate(marks):
        axes.plot(mark.x, row, **_look(mark.stage))
        rightwards = mark.x < (left + right) / 2
        axes.annotate(
            f"{shortened(mark.name)} {percent(mark.y)}" + (" ↓" if mark.y is not None else ""), (mark.x, row),
            (6 if rightwards else -6, 0), textcoords="offset points",
            ha="left" if rightwards else "right", va="center_baseline", color=SOFT,
        )  # fmt: skip


def _look(stage: str) -> dict[str, Any]:
    colour = INK if stage == "baseline" else ACCENT
    fill = CARD if stage == "fit" else colour
    shape = "s" if stage == "baseline" else "o"
    return {
        "marker": shape, "markersize": 6.0, "markeredgewidth": 1.3, "linestyle": "none", "clip_on": False,
        "markeredgecolor": colour, "markerfacecolor": fill, "zorder": 4,
    }  # fmt: skip


def _prediction(axes: Axes, place: int, row: Prediction) -> None:
    known = [each for each in (row.measured_ms, row.table_ms, row.calibrated_ms) if each is not None]
    axes.plot([min(known), max(known)], [place, place], color=LINE, linewidth=1.4, zorder=2)
    if row.table_ms is not None:
        axes.plot(
            row.table_ms, place, "D", color=BAD, markerfacecolor=CARD, markersize=5.0, markeredgewidth=1.2
        )
    if row.calibrated_ms is not None:
        axes.plot(
            row.calibrated_ms,
            place,
            "s",
            color=GOOD,
            markerfacecolor=CARD,
            markersize=5.5,
            markeredgewidth=1.2,
        )
    axes.plot(row.measured_ms, place, "o", color=ACCENT, markersize=5.5)
    axes.annotate(
        _errors(row), (0.0, place - 0.38), xycoords=("axes fraction", "data"), xytext=(3, 0),
        textcoords="offset points", fontsize=8.0, color=SOFT, va="center_baseline",
    )  # fmt: skip


def _errors(row: Prediction) -> str:
    said = []
    if row.table_ms is not None:
        said.append(f"table {row.error(row.table_ms)}")
    if row.calibrated_ms is not None:
        said.append(f"after feedback {row.error(row.calibrated_ms)}")
    return ", ".join(said)


def _row_labels(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _before_after_legend(drawing: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=BEFORE, label="before"), Patch(color=ACCENT, label="after")]
    drawing.legend(handles=handles, loc="outside upper left", ncols=2, handlelength=1.0)


def _prediction_legend(drawing: Figure) -> None:
    from matplotlib.lines import Line2D

    looks = (
        ("measured", "o", ACCENT, ACCENT),
        ("table alone", "D", BAD, CARD),
        ("after feedback", "s", GOOD, CARD),
    )
    handles = [
        Line2D(
            [],
            [],
            marker=shape,
            color=edge,
            markerfacecolor=fill,
            linestyle="none",
            markersize=5.0,
            label=name,
        )
        for name, shape, edge, fill in looks
    ]
    drawing.legend(handles=handles, loc="outside upper left", ncols=3, handlelength=1.0, columnspacing=1.2)


def _accuracy_words(marks: Sequence[Mark], percentile: str, limit: float | None, floor: float | None) -> str:
    points = listed([f"{mark.name} {quantity(mark.x, 'ms')}, {percent(mark.y)}" for mark in marks])
    bounds = f" Budget {quantity(limit, 'ms')}." if limit is not None else ""
    bounds += f" Accuracy floor {percent(floor)}." if floor is not None else ""
    return printable(f"Validation accuracy against measured latency {percentile}. {points}.{bounds}")


def _widths_words(layers: Sequence[LayerLine]) -> str:
    narrower = sum(row.out_after is not None and row.out_after < row.out_before for row in layers)
    of_all = f"{narrower} of {count(len(layers))} layers are narrower"
    return f"Output width of each layer before and after; {of_all}."


def _times_words(layers: Sequence[LayerLine]) -> str:
    before, after = (
        sum(filter(None, times)) for times in zip(*((r.ms_before, r.ms_after) for r in layers), strict=True)
    )
    slowest = max(layers, key=lambda row: row.ms_before or 0.0)
    return printable(
        f"Time of each layer alone on the device before and after: {number(before)}{NBSP}ms and "
        f"{number(after)}{NBSP}ms in all. The slowest before is {slowest.name}, "
        f"{quantity(slowest.ms_before, 'ms')}."
    )
