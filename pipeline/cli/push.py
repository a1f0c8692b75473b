"""`pipeline push`: bring a bundle to devices and have them check it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

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
    megabytes,
    on_devices,
    quiet_option,
    state_cell,
    table,
)
from pipeline.delivery import Activated, Delivered, activate, deliver, next_sequence, short
from pipeline.device.client import DeviceClient
from pipeline.device.registry import DeviceEntry
from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.bundle import Bundle


@dataclass(frozen=True)
class Result:
    """What came of a bundle on one device; `activated` is `None` where that was not asked for."""

    delivered: Delivered
    activated: Activated | None = None


@dataclass(frozen=True)
class Wrap:
    """How a bare model file is made into a bundle."""

    name: str | None
    runtime: str | None
    threads: int | None
    tolerance: float | None


@click.command()
@click.argument("what", metavar="RUN|FOLDER|MODEL")
@devices_option
@click.option(
    "--activate", "then_activate", is_flag=True, help="Make it the active model where the check passed."
)
@confirm_option
@click.option(
    "--allow-downgrade",
    is_flag=True,
    help="Take a bundle that is older than one that was active on the device.",
)
@canary_option
@click.option("--name", help="What a bare model file is called on devices.  [as the file]")
@click.option(
    "--runtime", type=click.Choice(["onnxruntime", "tflite"]), help="What runs a bare file.  [by its suffix]"
)
@click.option("--threads", type=click.IntRange(1, 256), help="For a bare file.  [the devices' profiles say]")
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="T",
    help="For a bare file: a device's answer may differ by T + T x |answer| from this computer's.  [0.001]",
)
@json_option
@quiet_option
def push(
    what: str,
    devices: tuple[str, ...],
    then_activate: bool,
    confirm_within_s: float | None,
    allow_downgrade: bool,
    canary: int | None,
    name: str | None,
    runtime: str | None,
    threads: int | None,
    tolerance: float | None,
    json_file: str | None,
    quiet: bool,
) -> int:
    """Bring a bundle to devices, and have each of them check it.

    RUN is a run of `pipeline deploy` ("latest" is the newest), FOLDER a bundle's folder. MODEL is a bare .onnx or
    .tflite file with one input and one output: a bundle is made of it, whose golden answer this computer computes for
    a random input, and kept, so that other devices can be given the very same one.

    Files that a device has already are not sent again, and an upload that broke off goes on where it stopped. The
    bundle is signed with your own key, if there is one (`pipeline key new`). Without --activate no device changes what
    it runs.

    \b
    Examples:
      pipeline push latest --device rpi4
      pipeline push net.onnx --device rpi4 --device zero2w --threads 2
      pipeline push latest --device 'shelf-*' --canary 1 --activate --confirm-within 60

    \b
    Exit codes: 0 checked (and active) on all devices, 2 bad input, 4 at least one failed.
    """
    report = Report("push", json_file, quiet=quiet)
    if confirm_within_s is not None and not then_activate:
        raise InputError("--confirm-within is about activating", hint="add --activate, or leave it out")
    entries = chosen(devices)
    names = [entry.name for entry in entries]
    bundle = _bundle(what, entries, Wrap(name, runtime, threads, tolerance), report)
    if isinstance(bundle, Done):
        return report.close(bundle, lambda number: {"next_sequence": number}, bundle=None)
    signatures = _signatures(bundle)
    _tell_bundle(report, bundle, signatures)
    rows = report.rows(names)

    def work(device_name: str, device: DeviceClient) -> Result:
        tell = partial(rows.phase, device_name)
        delivered = deliver(
            device,
            bundle,
            signatures,
            allow_downgrade=allow_downgrade,
            on_progress=partial(rows.sent, device_name),
            tell=tell,
        )
        if not then_activate:
            return Result(delivered)
        return Result(
            delivered, activate(device, bundle.digest, confirm_within_s=confirm_within_s, tell=tell)
        )

    done = on_devices(names, work, rows, canary=canary)
    _tell(report, done)
    facts = {"digest": bundle.digest, "folder": str(bundle.folder), "name": bundle.manifest.name}
    signed = [signature["key"] for signature in signatures]
    return report.close(
        done, asdict, bundle={**facts, "sequence": bundle.manifest.sequence, "signed_by": signed}
    )


def _bundle(what: str, entries: Sequence[DeviceEntry], wrap: Wrap, report: Report) -> Bundle | Done[int]:
    """Return the bundle that is meant; for a bare file what came of asking, if no device could be asked."""
    from pipeline.bundle_source import bare_model, find_bundle, is_model_file, runtime_of

    if not is_model_file(what):
        if given := [f"--{key}" for key, value in asdict(wrap).items() if value is not None]:
            raise InputError(f"{given[0]} is for bare model files; {what!r} is a bundle already")
        return find_bundle(what)
    path = Path(what).expanduser()
    runtime, threads = runtime_of(path, wrap.runtime), wrap.threads or _common_threads(entries)
    model = bare_model(path, runtime=runtime, threads=threads, name=wrap.name, tolerance=wrap.tolerance)
    asked = _sequences([entry.name for entry in entries], report)
    known = [outcome.value for outcome in asked.outcomes if outcome.value is not None]
    return asked if asked.stopped or not known else model.bundle(max(known))


def _sequences(names: Sequence[str], report: Report) -> Done[int]:
    """Return the number that each device would have the next bundle bear.

    One that claims a number of the far future has no say, and refuses the bundle later.
    """
    return on_devices(
        names, lambda _, device: next_sequence(device.status().update.sequence), report.rows(names)
    )


def _common_threads(entries: Sequence[DeviceEntry]) -> int:
    """Return the threads that all profiles name: a bundle has one number for all devices."""
    from pipeline.profile import load_profile

    found = {entry.name: load_profile(entry.profile).threads for entry in entries}
    if len(set(found.values())) == 1:
        return next(iter(found.values()))
    listed = ", ".join(f"{name}: {threads}" for name, threads in found.items())
    raise InputError(f"the devices' profiles do not agree on the threads ({listed})", hint="say --threads N")


def _signatures(bundle: Bundle) -> list[dict[str, str]]:
    from pipeline.bundle import MANIFEST
    from pipeline.signing import sign_with_own_key

    return sign_with_own_key((bundle.folder / MANIFEST).read_bytes())


def _tell_bundle(report: Report, bundle: Bundle, signatures: Sequence[dict[str, str]]) -> None:
    size = sum(path.stat().st_size for path in bundle.files)
    signed = (
        f"signed by {signatures[0]['key']}" if signatures else "not signed (`pipeline key new` makes a key)"
    )
    what = (
        f"bundle {short(bundle.digest)}: {bundle.manifest.name}, {len(bundle.files)} files, {megabytes(size)}"
    )
    report.out.print(cell(f"{what}, {signed}"), soft_wrap=True)
    report.out.print(cell(f"in {bundle.folder}"), soft_wrap=True)


def _tell(report: Report, done: Done[Result]) -> None:
    shown = table("device", ">sent", ">files skipped", "check", "")
    for outcome in done.outcomes:
        if (value := outcome.value) is None:
            shown.add_row(cell(outcome.device, "bold"), "", "", "", state_cell(outcome))
            continue
        told = value.delivered
        shown.add_row(
            cell(outcome.device, "bold"),
            megabytes(told.sent_bytes),
            str(told.skipped_files),
            _check(told),
            cell(_word(value), "green"),
        )
    report.out.print(shown)


def _check(told: Delivered) -> str:
    if told.check is None:
        return ""
    error, latency = told.check.max_abs_error, told.check.latency_p50_ms
    parts = ["passed"]
    parts += [] if error is None else [f"largest error {error:.2g}"]
    parts += [] if latency is None else [f"p50 {latency:.3g} ms"]
    return ", ".join(parts)


def _word(value: Result) -> str:
    if value.activated is not None:
        already = value.activated.already
        return "was active already" if already else f"active, generation {value.activated.generation}"
    return "was active already" if value.delivered.check is None else "staged"
