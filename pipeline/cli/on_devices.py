"""What the commands for one or several devices share: their options, progress, results, and exit codes."""

from __future__ import annotations

import fnmatch
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pipeline.cli.rows import Rows
from pipeline.cli.text import printable
from pipeline.device.client import DeviceClient
from pipeline.device.registry import DeviceEntry, find_device, known_devices, open_device
from pipeline.errors import AgentError, InputError, PipelineError
from pipeline.files import write_text
from pipeline.fleet import FleetStopped, Outcome, run

FAILED = 4
STDOUT = Path("-")
_PLAIN_WIDTH = 200  # of a table that goes into a file or a pipe: one line a device
_HINTS = {
    "older_refused": "push a newer build, or take the older one with --allow-downgrade",
    "not_checked": "`pipeline push` it there first",
    "not_staged": "`pipeline push` it there first",
    "not_confirmed": "the application has to confirm it (bundle.confirm); `pipeline rollback` takes it back",
    "untrusted": "make a key with `pipeline key new` and have the device trust it: docs/trust.md",
}

T = TypeVar("T")
Command = TypeVar("Command", bound=Callable[..., Any])

devices_option = click.option(
    "--device",
    "devices",
    multiple=True,
    metavar="NAME",
    help="A device's name, or a pattern such as 'shelf-*'; may be given several times.  [local]",
)
canary_option = click.option(
    "--canary",
    type=click.IntRange(1),
    default=None,
    metavar="N",
    help="Do the first N devices first; if one of them fails, leave the others alone.",
)
json_option = click.option(
    "--json",
    "json_file",
    is_flag=False,
    flag_value="-",
    default=None,
    metavar="[FILE.json]",
    help="Print the result as JSON, or write it to a file.",
)
quiet_option = click.option("--quiet", is_flag=True, help="Print errors only.")
confirm_option = click.option(
    "--confirm-within",
    "confirm_within_s",
    type=click.FloatRange(min=0, min_open=True, max=7 * 24 * 3600),
    metavar="SECONDS",
    help="Wait so long for the application on the device to confirm the model; else the device goes back by itself.",
)


def chosen(texts: Sequence[str], *, default: Sequence[str] = ("local",)) -> tuple[DeviceEntry, ...]:
    """Return the devices that are meant, each once, in the order in which they were named.

    Raises:
        InputError: a name is unknown, a pattern fits none, or a device's file is not valid.
    """
    found: dict[str, DeviceEntry] = {}
    for text in texts or default:
        if any(sign in text for sign in "*?["):
            matching = [entry for entry in known_devices() if fnmatch.fnmatchcase(entry.name, text)]
            if not matching:
                raise InputError(
                    f"no device fits {text!r}", hint="`pipeline device list` shows the known ones"
                )
        else:
            matching = [find_device(text)]
        found |= {entry.name: entry for entry in matching}
    return tuple(found.values())


@dataclass(frozen=True)
class Done(Generic[T]):
    """What came of the work on all devices, in their order; `stopped` says that the user interrupted it."""

    outcomes: tuple[Outcome[T], ...]
    stopped: bool = False


class Report:
    """Where a command's results go: tables on stdout, or JSON there or in a file; progress and errors on stderr."""

    def __init__(self, command: str, json_file: str | None, *, quiet: bool = False) -> None:
        if json_file not in {None, "-"} and not str(json_file).endswith(".json"):
            raise InputError(
                f"--json {json_file}: the name of a JSON file ends in .json", hint="or use --json alone"
            )
        self.command = command
        self.target = None if json_file is None else Path(json_file)
        self._quiet = quiet
        silent = quiet or self.target == STDOUT
        self.out = _console(sys.stdout, quiet=silent)
        self._failures = _console(sys.stderr if silent else sys.stdout)

    def rows(self, names: Sequence[str]) -> Rows:
        """Return the progress of some devices, a line each while it lasts."""
        return Rows(Console(stderr=True, quiet=self._quiet, highlight=False), names)

    def close(self, done: Done[T], result: Callable[[T], Any], **facts: Any) -> int:
        """Tell what failed, write the JSON, and return the exit code.

        Args:
            done: what came of the work.
            result: makes JSON of a device's value.
            facts: what the JSON says beside the devices.

        Raises:
            KeyboardInterrupt: the user stopped the work; all that was reached has been told before.
        """
        failed = [outcome for outcome in done.outcomes if outcome.error is not None]
        for outcome in failed:
            self._tell_failure(outcome)
        if self.target is not None:
            devices = [_as_json(outcome, result) for outcome in done.outcomes]
            told = {"command": self.command, "ok": not failed, "stopped": done.stopped}
            document = {**told, **facts, "devices": devices}
            text = json.dumps(document, indent=2)
            if self.target == STDOUT:
                click.echo(text)
            else:
                write_text(self.target, text + "\n")
        if done.stopped:
            raise KeyboardInterrupt
        return FAILED if failed else 0

    def _tell_failure(self, outcome: Outcome[T]) -> None:
        error = explained(outcome.error) if outcome.error else None
        if error is None:
            return
        mark = "[bold red]✗[/]" if outcome.tried else "[yellow]-[/]"
        message, hint = (escape(printable(text)) for text in (error.message, error.hint))
        self._failures.print(f"{mark} {escape(outcome.device)}: {message}", soft_wrap=True)
        if hint:
            self._failures.print(f"  {hint}", soft_wrap=True)


def on_devices(
    names: Sequence[str],
    work: Callable[[str, DeviceClient], T],
    rows: Rows,
    *,
    canary: int | None = None,
    deadline_s: float | None = None,
) -> Done[T]:
    """Do the work on all devices while `rows` are shown; an interrupt ends it, and is told at the end."""

    def connect(name: str) -> DeviceClient:
        rows.phase(name, "connecting")
        return open_device(name, lambda text: rows.phase(name, text))

    with rows:
        try:
            return Done(
                run(
                    names,
                    work,
                    canary=canary or 0,
                    deadline_s=deadline_s,
                    on_outcome=lambda outcome: rows.end(outcome.device, ok=outcome.ok),
                    connect=connect,
                )
            )
        except FleetStopped as stop:
            return Done(stop.outcomes, stopped=True)


def table(*headings: str) -> Table:
    """Return a plain table; ">" aligns a column to the right."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in headings:
        right = heading.startswith(">")
        made.add_column(heading.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    return made


def cell(text: str, style: str = "") -> Text:
    """Return text as it is: what a device says of itself is never read as markup, nor can it move the cursor."""
    return Text(printable(text), style=style)


def state_cell(outcome: Outcome[Any]) -> Text:
    """Return what stands in a failed device's row."""
    return cell("failed", "bold red") if outcome.tried else cell("not tried", "yellow")


def megabytes(size: int) -> str:
    """Write a number of bytes as a person would."""
    return (
        f"{size} B" if size < 1000 else f"{size / 1e3:.1f} kB" if size < 1_000_000 else f"{size / 1e6:.2f} MB"
    )


def explained(error: PipelineError) -> PipelineError:
    """Return an agent's refusal with a hint for the command line in place of the protocol's."""
    if not isinstance(error, AgentError):
        return error
    return AgentError(error.message, code=error.code, hint=_HINTS.get(error.code, error.hint))


def _as_json(outcome: Outcome[T], result: Callable[[T], Any]) -> dict[str, Any]:
    told: dict[str, Any] = {"device": outcome.device, "ok": outcome.ok, "seconds": round(outcome.seconds, 3)}
    if outcome.error is None:
        return {**told, "result": result(outcome.value)}  # type: ignore[arg-type]
    error = explained(outcome.error)
    code = error.code if isinstance(error, AgentError) else None
    return {
        **told,
        "tried": outcome.tried,
        "error": {"message": error.message, "hint": error.hint, "code": code},
    }


def _console(stream: Any, *, quiet: bool = False) -> Console:
    width = None if stream.isatty() else _PLAIN_WIDTH
    return Console(file=stream, quiet=quiet, highlight=False, width=width)
