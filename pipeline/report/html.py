"""A run's report as one self-contained HTML page: no script, nothing loaded from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template, select_autoescape

from pipeline.report import words
from pipeline.report.closing import closing_rows, outcome_heading
from pipeline.report.measured import facts, predictions
from pipeline.report.summary import LayerLine, RunSummary, summary_from_json
from pipeline.report.verdict import verdict

BOARD_NAMES = {"soc": "Chip", "arch": "Architecture", "os": "System", "python": "Python", "libc": "C library"}


def render(summary: RunSummary | Mapping[str, Any]) -> str:
    """Return the page for a run's summary; the same summary gives the same page, byte for byte.

    Raises:
        RunError: the summary is not usable.
    """
    from pipeline.report import (
        plots,
        stairs,
    )  # with matplotlib, which takes a second; the terminal needs none of it

    run = summary if isinstance(summary, RunSummary) else summary_from_json(summary)
    predicted = predictions(run.candidates)
    return _template().render(
        run=run,
        verdict=verdict(run),
        rows=closing_rows(run),
        outcome=outcome_heading(run),
        facts=facts(run),
        board=_board(run.board),
        predictions=predicted,
        before_ms=_total([layer.ms_before for layer in run.layers]),
        after_ms=_total([layer.ms_after for layer in run.layers]),
        undrawn=max(0, len(run.layers) - plots.MAX_ROWS),
        changed=any(_changed(layer) for layer in run.layers),
        accuracy_caption=_accuracy_caption(run),
        accuracy_plot=plots.accuracy_against_latency(run),
        predicted_plot=plots.predicted_against_measured(predicted),
        stairs_plot=stairs.staircases(run.groups),
        widths_plot=plots.widths(run.layers),
        times_plot=plots.layer_times(run.layers),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_clean,
    )
    for name in ("percent", "quantity", "count", "seconds", "number"):
        environment.filters[name] = getattr(words, name)
    return environment.get_template("run.html.j2")


def _clean(value: Any) -> Any:
    """Take out of every text what no page can hold."""
    return words.printable(value) if type(value) is str else value


def _board(board: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the device's facts under names for people; nested values stay in the JSON."""
    rows = []
    for key, value in board.items():
        if key == "memory_bytes" and isinstance(value, int | float):
            rows.append(("Memory", words.quantity(value / 1e6, "MB", 4)))
        elif isinstance(value, str | int | float):
            rows.append((BOARD_NAMES.get(key, key.replace("_", " ")), str(value)))
    return rows


def _accuracy_caption(run: RunSummary) -> str:
    """Explain the marks of the accuracy plot that are there."""
    said = ["Every model that was measured on the device."]
    has_floor = run.accuracy is not None and run.accuracy.floor is not None
    if has_floor and any(line.resource == "latency" and line.limit is not None for line in run.budgets):
        said.append("The target is the shaded corner.")
    if any(candidate.stage == "fit" for candidate in run.candidates):
        said.append(
            "Hollow marks are models before recovery: pruned, but not trained again. Those far below stand "
            "under the dotted line, not to scale."
        )
    return " ".join(said)


def _total(times: Sequence[float | None]) -> float | None:
    """Add up the layers' times; `None` where not every layer was timed, since a part is not the whole."""
    known = [time for time in times if time is not None]
    return sum(known) if known and len(known) == len(times) else None


def _changed(layer: LayerLine) -> bool:
    return (layer.in_before, layer.out_before) != (layer.in_after, layer.out_after)
