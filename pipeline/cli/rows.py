"""Progress of the work on several devices: one line each on a terminal, nothing where there is none."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

from pipeline.cli.text import printable


class Rows:
    """A row for each device; its methods may be called from any thread."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        self._progress = Progress(
            SpinnerColumn(finished_text=" "),
            TextColumn("{task.fields[device]}"),
            TextColumn("{task.fields[phase]}"),
            BarColumn(bar_width=24),
            _Reached(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {
            name: self._progress.add_task("", total=None, device=escape(name), phase="waiting", unit="")
            for name in names
        }

    def __enter__(self) -> Rows:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def phase(self, name: str, text: str) -> None:
        """Say what is done on a device now."""
        number, shown = self._tasks[name], escape(printable(text))
        task = self._progress.tasks[number]
        if task.fields["phase"] != shown:
            self._progress.reset(number, device=escape(name), phase=shown, unit="")
            task.total = None  # which reset() would take for "as before"

    def sent(self, name: str, done: int, of: int) -> None:
        """Say how many bytes of an upload are on the device; rate and time left are shown."""
        self.phase(name, "sending")
        self._progress.update(self._tasks[name], completed=done, total=of, unit="B")

    def counted(self, name: str, phase: str, done: int, of: int) -> None:
        """Say how far a phase is that is counted."""
        self.phase(name, phase)
        self._progress.update(self._tasks[name], completed=done, total=of, unit="#")

    def end(self, name: str, *, ok: bool) -> None:
        """Say that a device is done."""
        phase = "[green]done[/]" if ok else "[red]failed[/]"
        self._progress.update(self._tasks[name], completed=1, total=1, phase=phase, unit="")


class _Reached(ProgressColumn):
    """How far a row is: for bytes also the rate and the time left."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        if not task.total or not task.fields["unit"]:
            return Text("")
        if task.fields["unit"] == "#":
            return Text(f"{task.completed:.0f}/{task.total:.0f}")
        rate = f", {decimal(int(task.speed))}/s" if task.speed else ""
        left = f", {task.time_remaining:.0f} s left" if task.time_remaining else ""
        return Text(f"{decimal(int(task.completed))} of {decimal(int(task.total))}{rate}{left}")
