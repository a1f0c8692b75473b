"""`pipeline measure`: what one model file costs on a device."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click

from pipeline.cli.on_devices import (
    Done,
    Report,
    chosen,
    devices_option,
    json_option,
    on_devices,
    quiet_option,
)
from pipeline.cli.rows import Rows
from pipeline.device.client import DeviceClient
from pipeline.device.registry import DeviceEntry
from pipeline.measurement import Measurement, MeasuringProtocol

TIME_SHARE = (
    0.5  # of the time-out, for the runs that were asked for; the rest is for what comes before and after
)


@dataclass(frozen=True)
class Wanted:
    """What the flags ask of a measurement beyond the device's own profile."""

    profile: str | None
    runtime: str
    threads: int | None
    runs: int | None
    operators: bool
    energy: bool
    energy_estimates: bool

    def on(self, entry: DeviceEntry) -> How:
        """Return how this is measured on a device.

        Raises:
            ProfileError: the device's profile cannot be read, or allows no so many threads.
        """
        from pipeline.profile import load_profile, with_overrides

        own = with_overrides(load_profile(self.profile or entry.profile), [], self.runtime, self.threads)
        protocol = own.measuring
        if self.runs is not None:
            longest_s = max(protocol.max_duration_s, TIME_SHARE * protocol.timeout_s)
            protocol = replace(protocol, min_runs=self.runs, max_duration_s=longest_s)
        protocol = replace(
            protocol,
            operators=protocol.operators or self.operators,
            energy=protocol.energy or self.energy or self.energy_estimates,
            energy_estimates=protocol.energy_estimates or self.energy_estimates,
        )
        return How(own.threads, protocol)


@dataclass(frozen=True)
class How:
    """How one device is to measure."""

    threads: int
    protocol: MeasuringProtocol


@click.command()
@click.argument("file", metavar="MODEL.onnx|MODEL.tflite", type=click.Path(path_type=Path))
@devices_option
@click.option("--profile", help="Whose threads and measuring protocol to use.  [each device's own]")
@click.option(
    "--runtime", type=click.Choice(["onnxruntime", "tflite"]), help="What runs the file.  [by its suffix]"
)
@click.option("--threads", type=click.IntRange(1, 256), help="Overrides the profile's threads.")
@click.option(
    "--runs",
    type=click.IntRange(1, 10_000_000),
    metavar="N",
    help="At least so many inferences: 662 for a p99. More where they take less time than the profile wants.",
)
@click.option("--operators", is_flag=True, help="Time every operator, too, in a pass of its own.")
@click.option(
    "--energy", is_flag=True, help="Measure energy, too, where there is a power sensor (about 1 minute)."
)
@click.option(
    "--energy-estimates", is_flag=True, help="As --energy, also by sensors that model part of the power."
)
@json_option
@quiet_option
def measure(
    file: Path,
    devices: tuple[str, ...],
    profile: str | None,
    runtime: str | None,
    threads: int | None,
    runs: int | None,
    operators: bool,
    energy: bool,
    energy_estimates: bool,
    json_file: str | None,
    quiet: bool,
) -> int:
    """Measure what a model file costs on a device: latency, cold start, memory; energy and operators if asked for.

    Any ONNX or TFLite file with fixed shapes. It is fed made-up inputs, what it answers does not matter, and what is
    active on the device stays active. Several devices measure at the same time.

    \b
    Examples:
      pipeline measure net.onnx
      pipeline measure net.onnx --device rpi4 --runs 662 --operators
      pipeline measure net.tflite --device rpi4 --device zero2w --threads 2 --json net.json

    \b
    Exit codes: 0 all devices measured it, 2 bad input, 4 at least one could not.
    """
    from pipeline.bundle_source import runtime_of

    report = Report("measure", json_file, quiet=quiet)
    asked = Wanted(profile, runtime_of(file, runtime), threads, runs, operators, energy, energy_estimates)
    entries = chosen(devices)
    hows = {entry.name: asked.on(entry) for entry in entries}
    rows = report.rows(list(hows))

    def work(name: str, device: DeviceClient) -> Measurement:
        return _measure(file, asked.runtime, hows[name], rows, name, device)

    done = on_devices(list(hows), work, rows)
    _tell(file, done, hows, report)
    return report.close(done, asdict, file=str(file))


def _measure(file: Path, runtime: str, how: How, rows: Rows, name: str, device: DeviceClient) -> Measurement:
    def show(event: dict[str, object]) -> None:
        phase, done, of = str(event.get("phase", "")), event.get("done"), event.get("of")
        if phase == "sending" and isinstance(done, int) and isinstance(of, int):
            rows.sent(name, done, of) if done < of else rows.phase(name, "preparing")
        elif phase == "waiting":
            rows.phase(name, f"waiting for {event.get('holder') or 'another one'}, who measures now")
        elif isinstance(done, int) and isinstance(of, int):
            rows.counted(name, phase, done, of)
        else:
            rows.phase(name, phase)

    rows.phase(name, "preparing")
    return device.measure(file, runtime=runtime, threads=how.threads, protocol=how.protocol, on_event=show)


def _tell(file: Path, done: Done[Measurement], hows: dict[str, How], report: Report) -> None:
    from pipeline.cli.measure_tables import comparison, details, operators

    if len(done.outcomes) > 1:
        report.out.print(comparison(done.outcomes))
        report.out.print()
    for outcome in done.outcomes:
        if (made := outcome.value) is None:
            continue
        how = hows[outcome.device].protocol
        report.out.print(f"[bold]{outcome.device}[/]: {file.name} ({made.file_sha256[:12]})", soft_wrap=True)
        report.out.print(details(made, energy_asked=how.energy))
        if made.runs < how.min_runs:
            report.out.print(
                f"  only {made.runs} of {how.min_runs} runs: they took {made.duration_s:.0f} s, the most that the "
                "profile allows",
                style="bold yellow",
            )
        if how.operators:
            report.out.print(operators(made))
        report.out.print()
