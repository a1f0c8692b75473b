"""`pipeline status`: how the devices are, a line each."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from rich.text import Text

from pipeline.cli.on_devices import Report, cell, chosen, devices_option, json_option, on_devices, table
from pipeline.delivery import short
from pipeline.device.client import DeviceClient
from pipeline.device.values import BoardStatus
from pipeline.fleet import Outcome

LITTLE_DISK_BYTES = 200_000_000


@click.command()
@devices_option
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="A device that has not answered by then counts as unreachable.",
)
@json_option
def status(devices: tuple[str, ...], timeout_s: float, json_file: str | None) -> int:
    """Show how devices are: a line each, all known ones unless some are named.

    Nothing is changed on them. Everything that a device says of itself is in --json.

    \b
    Examples:
      pipeline status
      pipeline status --device 'shelf-*'
      pipeline status --json | jq '.devices[] | select(.ok | not) | .device'

    \b
    Exit codes: 0 all devices answered, 2 bad input, 4 at least one did not.
    """
    report = Report("status", json_file)
    names = [entry.name for entry in chosen(devices, default=("*",))]
    done = on_devices(names, _ask, report.rows(names), deadline_s=timeout_s)
    shown = table(
        "device", "agent", "board", "model", ">generation", "update", ">temp", ">free disk", "notes"
    )
    for outcome in done.outcomes:
        shown.add_row(cell(outcome.device, "bold"), *_row(outcome))
    report.out.print(shown)
    return report.close(done, asdict)


def _ask(name: str, device: DeviceClient) -> BoardStatus:
    del name
    return device.status()


def _row(outcome: Outcome[BoardStatus]) -> list[Text]:
    known = outcome.value
    if known is None:
        return [
            cell(""),
            cell(""),
            cell(""),
            cell(""),
            cell(""),
            cell(""),
            cell(""),
            cell("unreachable", "bold red"),
        ]
    update, degrees = known.update, known.conditions.temperature_c
    return [
        cell(known.agent_version),
        cell(known.board.model or known.board.arch),
        cell(_model(known)),
        cell("" if update.generation is None else str(update.generation)),
        cell(_state(known)),
        cell("" if degrees is None else f"{degrees:.0f} °C"),
        cell(f"{known.disk_free_bytes / 1e9:.1f} GB"),
        cell(", ".join(notes(known)), "bold yellow"),
    ]


def _model(known: BoardStatus) -> str:
    if known.update.current is None:
        return "none"
    name = f"{known.active.name} " if known.active else ""
    return f"{name}{short(known.update.current)}"


def _state(known: BoardStatus) -> str:
    update = known.update
    if update.staged:
        return f"{update.state} {short(update.staged)}"
    return "waits for confirmation" if update.waits_for_confirmation else update.state


def notes(known: BoardStatus) -> list[str]:
    """Return what somebody should look at."""
    update, lease = known.update, known.lease
    found: dict[str, Any] = {
        "THROTTLED": known.conditions.throttled,
        f"FAULT: {update.fault}": update.fault,
        "the active model is marked bad": update.current in update.bad,
        "activated, not committed": update.state == "activated" and not update.waits_for_confirmation,
        update.last: update.last,
        "little disk": known.disk_free_bytes < LITTLE_DISK_BYTES,
        "no runtime": not known.runtimes,
        f"measuring for {lease.holder if lease else ''}": lease and lease.holder,
    }
    return [text for text, present in found.items() if present]
