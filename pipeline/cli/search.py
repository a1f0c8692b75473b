"""`pipeline search`: how the widths of a run were chosen."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from pipeline.cli.text import printable
from pipeline.errors import RunError

if TYPE_CHECKING:
    from pipeline.report.summary import GroupLine, RunSummary


@click.group()
def search() -> None:
    """See why a run chose the widths that it chose.

    \b
    Examples:
      pipeline search explain latest
      pipeline search explain latest --plot stairs.svg
    """


@search.command()
@click.argument("run_id", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE.svg",
    help="Draw each group's latency against its width, as the device timed it.",
)
def explain(run_id: str, as_json: bool, plot: Path | None) -> None:
    """Say for each group of channels why it has its width. RUN is a run's name, or "latest".

    What was lost is the share of all importance that could be lost; what was won is time on the device while all other
    groups are as chosen. The widths that could be chosen are the right edges of the device's own staircase.
    """
    from pipeline.report.summary import summary_from_json
    from pipeline.store import Store

    store = Store()
    summary = summary_from_json(store.summary(store.row(run_id).id))
    if not summary.groups:
        raise RunError(
            f"run {summary.run} chose no widths: {summary.message or summary.status}",
            hint="it ended before that, or its model fitted as it was",
        )
    if plot is not None:
        _draw(summary, plot)
    if as_json:
        click.echo(json.dumps([asdict(group) for group in summary.groups], indent=2))
        return
    console = Console(highlight=False)
    console.print(_table(summary.groups))
    for line in _rounds(summary):
        console.print(line, soft_wrap=True, markup=False)


def _table(groups: tuple[GroupLine, ...]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading, side in (("group", "left"), ("whole", "right"), ("kept", "right"), ("lost", "right")):
        table.add_column(heading, justify=side, overflow="fold")  # type: ignore[arg-type]
    table.add_column("won", justify="right")
    table.add_column("one step wider")
    for group in groups:
        table.add_row(
            printable(group.name),
            str(group.whole),
            str(group.kept),
            f"{100 * group.lost:.2f} %",
            f"{group.won_ms:.4g} ms",
            _wider(group),
        )
    return table


def _wider(group: GroupLine) -> str:
    other = group.wider
    if other is None:
        return "it is whole"
    steps = "" if group.even else ", the next edge of the staircase"
    return f"{other.width}: {100 * other.kept_more:.2f} % more kept for {other.ms_more:.4g} ms{steps}"


def _rounds(summary: RunSummary) -> list[str]:
    """Return what was expected of each measured model, and what the device said."""
    lines = []
    for each in summary.candidates:
        measured = each.latency_ms.p50
        if each.calibrated_ms is not None:
            gap = 100 * (each.calibrated_ms / measured - 1)
            lines.append(
                f"{each.name}: expected {each.calibrated_ms:.4g} ms, measured {measured:.4g} ms ({gap:+z.1f} %)"
            )
    return lines


def _draw(summary: RunSummary, path: Path) -> None:
    from pipeline.files import write_text
    from pipeline.report.stairs import staircases
    from pipeline.report.svg import standing_alone

    drawn = staircases(summary.groups)
    if drawn is None:
        raise RunError(f"run {summary.run} has no times of layers to draw")
    write_text(path, standing_alone(drawn))
