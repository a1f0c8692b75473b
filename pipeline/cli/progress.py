"""What a person sees while a deploy works: one line a step, with a bar while it lasts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.watch import Advance


class Terminal:
    """A watch that draws on a terminal; where there is none it prints one line a finished step."""

    def __init__(self, console: Console) -> None:
        self._console = console

    @contextmanager
    def step(self, title: str) -> Iterator[Advance]:
        """Show a bar for as long as the step lasts, then one line with its time."""
        start = time.monotonic()
        with self._bar() as progress:
            task = progress.add_task(escape(title), total=None, note="")
            yield _advance(progress, task)
        self._console.print(f"  [green]✓[/] {escape(title)} [dim]{time.monotonic() - start:.1f} s[/]")

    def say(self, text: str) -> None:
        """Print one line."""
        self._console.print(f"    {escape(text)}")

    def _bar(self) -> Progress:
        return Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )


def _advance(progress: Progress, task: TaskID) -> Advance:
    def advance(*, done: int, of: int, note: str = "") -> None:
        progress.update(task, completed=done, total=of, note=escape(note))

    return advance
