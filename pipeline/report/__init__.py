"""What a run came to, for people: a self-contained HTML page, and the closing table of the terminal.

`summary` defines the report's data (the same JSON that `--json` writes), `closing` and `measured` turn it
into rows of text, `plots` into figures, `html` and `table` put them on a page or a terminal. Everything is
made from a `RunSummary` alone; nothing here looks at a store, a device or a model.
"""

from pipeline.report.html import render
from pipeline.report.summary import (
    AccuracyLine,
    AgreementLine,
    BudgetLine,
    BundleLine,
    Candidate,
    FixedLine,
    LayerLine,
    RunSummary,
    RuntimeLine,
    StepLine,
    summary_from_json,
    to_json,
)
from pipeline.report.table import closing_table

__all__ = [
    "AccuracyLine",
    "AgreementLine",
    "BudgetLine",
    "BundleLine",
    "Candidate",
    "FixedLine",
    "LayerLine",
    "RunSummary",
    "RuntimeLine",
    "StepLine",
    "closing_table",
    "render",
    "summary_from_json",
    "to_json",
]
