"""How near every kind of energy sensor comes to the truth: a played power trace, read by the whole sampler.

    python tests/bench/energy_traces.py [--seconds 10] [--rate 100]

Another process writes what the sensors of one board would tell (`--rate` times a second); all kinds are sampled at
once, each at its own rate. The truth is the energy of what was written, each value held until the next. Prints a
markdown table; the cost is the sampling thread's share of one core.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "device_agent"))

from power_player import TRACES, Board, put

from device_agent.sensors.energy import (
    EnergySensor,
    hwmon_energy,
    hwmon_power,
    ina3221,
    jetson,
    pmic,
    power_supply,
    powercap,
)
from device_agent.sensors.energy.meter import Meter
from device_agent.sensors.energy.windows import Sampler, integrate


def main() -> None:
    """Play every trace once and print a row for every sensor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=100.0)
    options = parser.parse_args()
    print("| trace | sensor | true, mJ | measured, mJ | error | readings/s | cost, share of a core |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for trace in TRACES:
        with tempfile.TemporaryDirectory() as folder:
            for row in measure(Path(folder), trace, options.seconds, options.rate):
                print(row, flush=True)


def measure(folder: Path, trace: str, seconds: float, rate_hz: float) -> list[str]:
    """Play one trace; return the rows of all sensors."""
    make_vcgencmd(folder)
    with Board(folder, trace, rate_hz) as board:
        sensors = all_sensors(folder)
        with ExitStack() as sampling:
            samplers = [sampling.enter_context(Sampler(sensor)) for sensor in sensors]
            time.sleep(0.2)
            begin_s = time.monotonic()
            time.sleep(seconds)
            end_s = time.monotonic()
            for sampler, sensor in zip(samplers, sensors, strict=True):
                sampler.wait_beyond(end_s, 5 * sensor.interval_s + 1)
    true_mj = board.energy_mj(begin_s, end_s)
    rows = []
    for sensor, sampler in zip(sensors, samplers, strict=True):
        found_mj = integrate(sampler.readings, begin_s, end_s)
        rate = sum(begin_s <= reading.time_s <= end_s for reading in sampler.readings) / seconds
        name = sensor.method.replace(str(folder / "meter"), "FIFO")
        error = f"{(found_mj / true_mj - 1) * 100:+.2f} %"
        rows.append(
            f"| {trace} | {name} | {true_mj:.0f} | {found_mj:.0f} | {error} | {rate:.1f} | {sampler.cost:.2%} |"
        )
    return rows


def all_sensors(folder: Path) -> list[EnergySensor]:
    """Return one sensor of every kind, all of the same board."""
    return [
        Meter(str(folder / "meter")),
        *jetson.find(folder),
        *hwmon_energy.find(folder),
        *hwmon_power.find(folder),
        *ina3221.find(folder),
        *powercap.find(folder),
        *power_supply.find(folder),
        *pmic.find(folder / "dev"),
    ]


def make_vcgencmd(folder: Path) -> None:
    """Put a vcgencmd in front of the path that prints what the board's firmware would answer."""
    put(folder / "dev/vcio", "")
    put(folder / "bin/vcgencmd", f"#!/bin/sh\ncat {folder}/pmic")
    (folder / "bin/vcgencmd").chmod(0o755)
    os.environ["PATH"] = f"{folder}/bin:{os.environ['PATH']}"


if __name__ == "__main__":
    main()
