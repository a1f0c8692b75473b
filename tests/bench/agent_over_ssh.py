"""Measures models on a board through its daemon, over any command that opens `device-agent stdio` there.

    python tests/bench/agent_over_ssh.py "ssh pi@BOARD device-agent stdio" MODEL ... [--repeats 4] [--energy]

Prints, for each model, the median of every measurement and how far they lie apart; with --energy, the energy per
inference of one measurement, and the power that it means.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
from pathlib import Path
from typing import Any, BinaryIO, cast

from pipeline.device.client import DeviceClient
from pipeline.measurement import Measurement, MeasuringProtocol

RUNTIMES = {".onnx": "onnxruntime", ".tflite": "tflite"}


class Command:
    """A transport over a command's pipes."""

    def __init__(self, command: str) -> None:
        self.name = command
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        """Start the command."""
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(shlex.split(self.name), stdin=pipe, stdout=pipe)
        return cast("BinaryIO", self._process.stdout), cast("BinaryIO", self._process.stdin)

    def close(self) -> None:
        """Wait for the command to end."""
        if self._process is not None:
            self._process.wait(timeout=30)

    def last_words(self) -> str:
        """Return nothing: what it prints goes to the terminal."""
        return ""


def main() -> None:
    """Measure every model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command")
    parser.add_argument("models", type=Path, nargs="+")
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--energy", action="store_true")
    parser.add_argument("--windows-s", type=float, default=10.0, help="length of an energy window")
    options = parser.parse_args()
    with DeviceClient(Command(options.command)) as device:
        status = device.status()
        print(f"{status.board.model}, agent {status.agent_version}, sensors {', '.join(status.sensors)}\n")
        for path in options.models:
            print(
                energy(device, path, options.windows_s)
                if options.energy
                else repeats(device, path, options.repeats)
            )


def repeats(device: DeviceClient, path: Path, count: int) -> str:
    """Measure a model several times."""
    found = [measured(device, path) for _ in range(count)]
    medians = [each.latency_ms.p50 for each in found]
    apart = 100 * (max(medians) - min(medians)) / min(medians)
    flags = sorted({flag for each in found for flag in each.flags}) or ["none"]
    held = ", ".join(found[0].confinement)
    text = ", ".join(f"{value:.4f}" for value in medians)
    return (
        f"{path.name}: p50 {text} ms; {apart:.4f} % apart; flags: {', '.join(flags)}\n  confined by: {held}"
    )


def energy(device: DeviceClient, path: Path, window_s: float) -> str:
    """Measure a model's energy once."""
    found = measured(device, path, energy=True, energy_window_s=window_s, max_attempts=1)
    if found.energy is None or found.energy_mj is None:
        return f"{path.name}: {found.energy_method}: {found.missing.get('energy_mj')}"
    good = [window for window in found.energy.windows if window.valid and window.energy_mj is not None]
    power_mw = sum(window.energy_mj or 0.0 for window in good) / sum(window.duration_s for window in good)
    return (
        f"{path.name}: {found.energy_mj:.4f} mJ ({found.energy_method}, {len(good)} of {len(found.energy.windows)} "
        f"windows, {found.energy.rate_hz:.1f} readings a second); power {power_mw:.2f} mW"
    )


def measured(device: DeviceClient, path: Path, **wanted: Any) -> Measurement:
    """Measure a model once."""
    protocol = MeasuringProtocol(min_runs=100, min_duration_s=1.0, **wanted)
    return device.measure(path, runtime=RUNTIMES[path.suffix], threads=1, protocol=protocol)


if __name__ == "__main__":
    main()
