"""`pipeline rollback`: back to the model before."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import click

from pipeline.cli.on_devices import (
    Report,
    canary_option,
    cell,
    chosen,
    devices_option,
    json_option,
    on_devices,
    quiet_option,
    state_cell,
    table,
)
from pipeline.delivery import roll_back, short
from pipeline.device.client import DeviceClient
from pipeline.errors import InputError

SHORTEST_DIGEST = 4


@dataclass(frozen=True)
class Result:
    """What a device ran before and runs now; `left_alone` says that it was not asked to change."""

    was: str | None
    now: str | None
    let_go: str | None = None
    left_alone: bool = False


@click.command()
@devices_option
@click.option(
    "--from",
    "away_from",
    metavar="DIGEST",
    help="Only where this bundle is active (its first digits do). A second call then changes nothing more.",
)
@click.option("--pending", is_flag=True, help="Only undo what is not committed; a committed model stays.")
@canary_option
@json_option
@quiet_option
def rollback(
    devices: tuple[str, ...],
    away_from: str | None,
    pending: bool,
    canary: int | None,
    json_file: str | None,
    quiet: bool,
) -> int:
    """Go back to the model that was active before the current one.

    An activation that was not committed is undone. A committed one is taken back: the model before it becomes the
    active one again, at once and for good, and the one that was active is kept in its place. What was only staged is
    let go. Every device keeps one model to go back to, so calling this twice returns to where you began: with --from,
    a second call leaves the devices alone that went back already.

    \b
    Examples:
      pipeline rollback --device rpi4
      pipeline rollback --device 'shelf-*' --from 3f2a91c0
      pipeline rollback --device rpi4 --pending

    \b
    Exit codes: 0 all devices went back or were left alone, 2 bad input, 4 at least one failed.
    """
    report = Report("rollback", json_file, quiet=quiet)
    if away_from is not None and not is_digest(away_from):
        raise InputError(
            f"--from {away_from!r} is no digest", hint="`pipeline status` shows their first digits"
        )
    names = [entry.name for entry in chosen(devices)]
    rows = report.rows(names)

    def work(name: str, device: DeviceClient) -> Result:
        rows.phase(name, "rolling back")
        current = device.status().update.current
        if away_from is not None and not (current or "").startswith(away_from.lower()):
            return Result(current, current, left_alone=True)
        return Result(**asdict(roll_back(device, pending_only=pending)))

    done = on_devices(names, work, rows, canary=canary)
    shown = table("device", "was", "now", "")
    for outcome in done.outcomes:
        if outcome.value is None:
            shown.add_row(cell(outcome.device, "bold"), "", "", state_cell(outcome))
        else:
            shown.add_row(
                cell(outcome.device, "bold"),
                short(outcome.value.was),
                short(outcome.value.now),
                _words(outcome.value),
            )
    report.out.print(shown)
    return report.close(done, asdict)


def is_digest(text: str) -> bool:
    """Tell whether a text may be the beginning of a digest."""
    return SHORTEST_DIGEST <= len(text) <= 64 and set(text.lower()) <= set("0123456789abcdef")


def _words(result: Result) -> str:
    if result.left_alone:
        return "left alone"
    words = ["went back"] if result.was != result.now else []
    if result.let_go:
        words.append(f"{short(result.let_go)} is no longer staged")
    return ", ".join(words) or "nothing to undo"
