"""`pipeline run`: the runs of the past, and what came of them."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipeline.store import RunRow, Store


@click.group()
def run() -> None:
    """List runs, show one, or write its report.

    \b
    Examples:
      pipeline run list
      pipeline run show latest
      pipeline run report latest --output report.html
    """


@run.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_runs(as_json: bool) -> None:
    """List all runs, newest first."""
    rows = Store().rows()
    if as_json:
        click.echo(json.dumps([_brief(row) for row in rows], indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("run", "task", "device", "status", "result"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        brief = _brief(row)
        table.add_row(row.id, *map(escape, (brief["task"], brief["device"], row.status, row.message)))
    Console().print(table if rows else "no runs yet: pipeline deploy --device local")


def _brief(row: RunRow) -> dict[str, str]:
    task = row.config.get("task", {})
    return {
        "run": row.id,
        "created": row.created,
        "task": str(task.get("name", "")),
        "device": str(row.config.get("device", "")),
        "status": row.status,
        "message": row.message,
    }


@run.command("show")
@click.argument("run_id", metavar="RUN")
@click.option("--json", "as_json", is_flag=True, help="Print the whole summary as JSON.")
def show_run(run_id: str, as_json: bool) -> None:
    """Show what a run reached. RUN is a run's name, or "latest"."""
    from pipeline.report.summary import summary_from_json
    from pipeline.report.table import closing_table

    store = Store()
    row = store.row(run_id)
    summary = store.summary(row.id)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    console = Console()
    console.print(f"run {row.id}: {row.status}. {escape(row.message)}", highlight=False, soft_wrap=True)
    console.print(closing_table(summary_from_json(summary)))


@run.command("report")
@click.argument("run_id", metavar="RUN")
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Where to write it. [RUN.html]"
)
def report_run(run_id: str, output: Path | None) -> None:
    """Write a run's report as one self-contained HTML file. RUN is a run's name, or "latest"."""
    from pipeline.files import write_text
    from pipeline.report.html import render

    store = Store()
    row = store.row(run_id)
    target = output or Path(f"{row.id}.html")
    write_text(target, render(store.summary(row.id)))
    click.echo(target)
