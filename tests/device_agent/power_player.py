"""Plays a power trace into sysfs trees and a meter's FIFO, from a process of its own; used by tests and benches.

    python power_player.py FOLDER TRACE RATE_HZ

Every tick writes what the sensors of one board would tell at that power. When stdin closes, prints each tick's
time (monotonic clock) and milliwatts: what was written is what a sampler should have seen.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from bisect import bisect_right
from pathlib import Path
from time import monotonic

MILLIVOLTS = 5000
WRAPS_AT_UJ = 7_000_003  # small, so that a counter wraps every few seconds

TRACES = {
    "square": lambda t: 4.0 if t % 1.0 < 0.5 else 2.0,
    "ramp": lambda t: 1.0 + 2.0 * (t % 2.0),
    "spikes": lambda t: 5.0 if t % 1.0 < 0.1 else 2.0,
}

STILL = {
    "class/hwmon/hwmon0/name": "ina226",
    "class/hwmon/hwmon0/update_interval": "10",
    "class/hwmon/hwmon1/name": "ina219",
    "class/hwmon/hwmon1/in1_input": MILLIVOLTS,
    "class/hwmon/hwmon1/update_interval": "10",
    "class/hwmon/hwmon2/name": "ina3221",
    "class/hwmon/hwmon2/update_interval": "10",
    **{f"class/hwmon/hwmon2/in{n}_input": MILLIVOLTS for n in (1, 2, 3)},
    "class/hwmon/hwmon3/name": "ina228",
    "class/hwmon/hwmon3/update_interval": "10",
    "class/powercap/intel-rapl:0/name": "package-0",
    "class/powercap/intel-rapl:0/max_energy_range_uj": WRAPS_AT_UJ,
    "class/power_supply/BAT0/type": "Battery",
    "class/power_supply/BAT0/status": "Discharging",
    "class/power_supply/BAT0/voltage_now": MILLIVOLTS * 1000,
    "bus/i2c/drivers/ina3221x/6-0040/iio:device0/rail_name_0": "POM_5V_IN",
}


def written(power_w: float, energy_uj: float) -> dict[str, str]:
    """What the files hold at one tick."""
    milliamperes = power_w * 1e6 / MILLIVOLTS
    third = round(milliamperes / 3)
    rails_w = (power_w - 0.5879) / 1.1451
    return {
        "class/hwmon/hwmon0/power1_input": f"{power_w * 1e6:.0f}",
        "class/hwmon/hwmon1/curr1_input": f"{milliamperes:.0f}",
        "class/hwmon/hwmon2/curr1_input": f"{third}",
        "class/hwmon/hwmon2/curr2_input": f"{third}",
        "class/hwmon/hwmon2/curr3_input": f"{round(milliamperes) - 2 * third}",
        "class/hwmon/hwmon3/energy1_input": f"{energy_uj:.0f}",
        "class/powercap/intel-rapl:0/energy_uj": f"{energy_uj % WRAPS_AT_UJ:.0f}",
        "class/power_supply/BAT0/current_now": f"{-milliamperes * 1000:.0f}",
        "bus/i2c/drivers/ina3221x/6-0040/iio:device0/in_power0_input": f"{power_w * 1000:.0f}",
        "pmic": f" VDD_CORE_A current(7)={rails_w / 0.9:.8f}A\n VDD_CORE_V volt(15)=0.90000000V\n",
    }


class Board:
    """The playing process, seen from the one that measures."""

    def __init__(self, folder: Path, trace: str, rate_hz: float) -> None:
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(folder), trace, str(rate_hz)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        assert self._process.stdout.readline() == "playing\n"
        self.times: list[float] = []
        self.powers_mw: list[float] = []

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        played, _nothing = self._process.communicate()
        rows = [line.split() for line in played.splitlines()]
        self.times = [float(time_s) for time_s, _mw in rows]
        self.powers_mw = [float(mw) for _time_s, mw in rows]

    def energy_mj(self, begin_s: float, end_s: float) -> float:
        """The energy of what was written, each value held until the next, once the block is over."""
        first, last = bisect_right(self.times, begin_s) - 1, bisect_right(self.times, end_s)
        edges = [begin_s, *self.times[first + 1 : last], end_s]
        held = self.powers_mw[first:last]
        return sum((b - a) * power for a, b, power in zip(edges[:-1], edges[1:], held, strict=True))


def make_folder(folder: Path) -> None:
    """Write what never changes, and the meter's FIFO."""
    for name, value in STILL.items():
        put(folder / name, str(value))
    os.mkfifo(folder / "meter")


def put(path: Path, text: str) -> None:
    """Write a file as the kernel would: whole at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".new")
    partial.write_text(text + "\n")
    partial.replace(path)


def play(folder: Path, trace: str, rate_hz: float) -> None:
    """Play until stdin closes."""
    meter = os.open(folder / "meter", os.O_RDWR | os.O_NONBLOCK)
    ticks: list[tuple[float, float]] = []
    energy_uj = 1_000_000.0
    begin_s = monotonic()
    while True:
        now_s = monotonic()
        power_w = round(TRACES[trace](now_s - begin_s), 3)
        if ticks:
            energy_uj += (now_s - ticks[-1][0]) * ticks[-1][1] * 1000
        for name, text in written(power_w, energy_uj).items():
            put(folder / name, text)
        with contextlib.suppress(BlockingIOError):  # nobody reads this meter
            os.write(meter, b"%.6f,5.0,%.6f\n" % (now_s - begin_s, power_w / 5))
        ticks.append((now_s, power_w * 1000))
        if len(ticks) == 1:
            print("playing", flush=True)
        if select.select([sys.stdin], [], [], max(0.0, len(ticks) / rate_hz - (monotonic() - begin_s)))[0]:
            break
    print("\n".join(f"{time_s:.6f} {power_mw:.3f}" for time_s, power_mw in ticks))


if __name__ == "__main__":
    make_folder(Path(sys.argv[1]))
    play(Path(sys.argv[1]), sys.argv[2], float(sys.argv[3]))
