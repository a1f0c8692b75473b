"""The closing table of the terminal: baseline, budget, reached and verdict, readable at 80 columns."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from pipeline.report.closing import closing_rows, outcome_heading
from pipeline.report.summary import RunSummary
from pipeline.report.words import printable

STYLES = {"met": "green", "missed": "bold red", "unknown": "yellow", "none": "dim"}


def closing_table(summary: RunSummary) -> Table:
    """Return the table that ends a deploy: a row a resource, then accuracy on validation and on test."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in ("baseline", "budget", outcome_heading(summary).lower()):
        table.add_column(heading, justify="right")
    table.add_column("verdict")
    for row in closing_rows(summary):
        budget = f"{row.budget} ({row.stated})" if row.stated else row.budget
        cells = [_text(cell) for cell in (row.name, row.baseline, budget, row.reached)]
        table.add_row(*cells, _text(row.word, STYLES[row.state]))
    return table


def _text(content: str, style: str = "") -> Text:
    """Return plain text: what is in it is never read as markup, and every terminal's encoding can hold it."""
    plain = content.replace("\u00a0", " ").replace("≥ ", ">= ").replace("–", "-").replace("−", "-")
    return Text(printable(plain), style=style)
