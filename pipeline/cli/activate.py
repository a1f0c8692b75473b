"""`pipeline activate`: make a staged bundle the active model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

import click

from pipeline.cli.on_devices import (
    Done,
    Report,
    canary_option,
    cell,
    chosen,
    confirm_option,
    devices_option,
    json_option,
    on_devices,
    quiet_option,
    state_cell,
    table,
)
from pipeline.cli.rollback import is_digest
from pipeline.delivery import Activated, short
from pipeline.delivery import activate as activate_on
from pipeline.device.client import DeviceClient
from pipeline.device.values import UpdateState
from pipeline.errors import InputError


@click.command()
@click.argument("what", metavar="[DIGEST|RUN|FOLDER]", required=False)
@devices_option
@confirm_option
@canary_option
@json_option
@quiet_option
def activate(
    what: str | None,
    devices: tuple[str, ...],
    confirm_within_s: float | None,
    canary: int | None,
    json_file: str | None,
    quiet: bool,
) -> int:
    """Make a bundle that was pushed the active model, and make sure of it.

    By default it is the one bundle that is staged; if the devices have different ones staged, say which: by the
    first digits of its digest, by the run that made it, or by its folder. A device is well when it has activated the
    bundle, it is committed (or confirmed by the application), and the device, asked anew, says that it runs it.
    Where it is active already nothing changes, so a call that failed halfway may be repeated.

    \b
    Examples:
      pipeline activate --device rpi4
      pipeline activate 3f2a91c0 --device rpi4 --device zero2w
      pipeline activate latest --device 'shelf-*' --canary 1 --confirm-within 60

    \b
    Exit codes: 0 active on all devices, 2 bad input, 4 at least one failed; it keeps or gets back what it had.
    """
    report = Report("activate", json_file, quiet=quiet)
    names = [entry.name for entry in chosen(devices)]
    digest = _known_digest(what)
    if digest is None:
        asked = _updates(names, report)
        if asked.stopped or not any(outcome.ok for outcome in asked.outcomes):
            return report.close(asked, asdict, bundle=None)
        digest = _meant(what, {each.device: each.value for each in asked.outcomes if each.value})
    rows = report.rows(names)

    def work(name: str, device: DeviceClient) -> Activated:
        return activate_on(
            device, digest, confirm_within_s=confirm_within_s, tell=lambda phase: rows.phase(name, phase)
        )

    done = on_devices(names, work, rows, canary=canary)
    shown = table("device", "model", ">generation", "before", "")
    for outcome in done.outcomes:
        if (value := outcome.value) is None:
            shown.add_row(cell(outcome.device, "bold"), "", "", "", state_cell(outcome))
        else:
            before = "" if value.already else short(value.previous)
            word = "was active already" if value.already else "active"
            shown.add_row(
                cell(outcome.device, "bold"),
                short(value.digest),
                str(value.generation),
                before,
                cell(word, "green"),
            )
    report.out.print(shown)
    return report.close(done, asdict, bundle=digest)


def _known_digest(what: str | None) -> str | None:
    """Return the digest of a folder, a run, or one that is written in full; `None` if devices have to be asked."""
    if what is None:
        return None
    if not is_digest(what) or Path(what).is_dir():
        from pipeline.bundle_source import find_bundle

        return find_bundle(what).digest
    return what.lower() if len(what) == 64 else None


def _updates(names: Sequence[str], report: Report) -> Done[UpdateState]:
    """Ask all devices how their updates are; nothing is changed."""
    return on_devices(names, lambda _, device: device.status().update, report.rows(names))


def _meant(what: str | None, updates: dict[str, UpdateState]) -> str:
    """Return the one bundle that can be meant.

    Raises:
        InputError: there is none, or more than one.
    """
    staged = {name: _under_way(update) for name, update in updates.items()}
    if what is None:
        fitting = {digest for digest in staged.values() if digest}
    else:
        known = {*staged.values(), *(update.current for update in updates.values())}
        fitting = {digest for digest in known if digest and digest.startswith(what.lower())}
    if len(fitting) == 1:
        return fitting.pop()
    if not fitting:
        missing = "nothing is staged" if what is None else f"no bundle {what}… is staged or active"
        raise InputError(f"{missing} on {_listed(updates)}", hint="`pipeline push` a bundle first")
    where = "; ".join(f"{name}: {short(digest)}" for name, digest in staged.items() if digest)
    raise InputError(
        f"more than one bundle can be meant ({where or _listed(map(short, sorted(fitting)))})",
        hint="say which: pipeline activate DIGEST",
    )


def _under_way(update: UpdateState) -> str | None:
    return update.current if update.state == "activated" else update.staged


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)
