"""Power sensors, and the sampling that turns power into energy per inference.

A further kind of sensor is one more class with `method` and `power_mw`, named in `find`.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Optional, Protocol

from device_agent.sensors import SYSFS, read_int, read_text

UNAVAILABLE = "unavailable: no power sensor found"
_INTERVAL_S = 0.05


class PowerSensor(Protocol):
    """Something that tells the board's present power."""

    @property
    def method(self) -> str:
        """Return how it measures, as `energy_method` states it."""
        ...

    def power_mw(self) -> Optional[float]:
        """Return milliwatts, or `None` when a reading failed."""
        ...


class HwmonPower:
    """A hwmon chip with a power reading (`power1_input`, µW), such as an ina226."""

    def __init__(self, chip: Path) -> None:
        self._input = chip / "power1_input"
        self._name = read_text(chip / "name") or chip.name

    @property
    def method(self) -> str:
        """Return "hwmon:" and the chip's name."""
        return f"hwmon:{self._name}"

    def power_mw(self) -> Optional[float]:
        """Return milliwatts."""
        reading = read_int(self._input)
        return None if reading is None else reading / 1000


def find(sysfs: Path = SYSFS) -> Optional[PowerSensor]:
    """Return the board's first usable power sensor."""
    chips = sorted((sysfs / "class/hwmon").glob("hwmon*"))
    sensors = [HwmonPower(chip) for chip in chips if (chip / "power1_input").is_file()]
    return next((sensor for sensor in sensors if sensor.power_mw() is not None), None)


class EnergyMeter:
    """Samples a power sensor on a thread while a `with` block runs; gross energy, idle included."""

    def __init__(self, sensor: Optional[PowerSensor]) -> None:
        self._sensor = sensor
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._readings_mw: list[float] = []
        self._seconds = 0.0
        self._began = 0.0

    def __enter__(self) -> EnergyMeter:
        self._began = time.monotonic()
        if self._sensor is not None:
            self._thread = threading.Thread(target=self._sample, args=(self._sensor,), daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds = time.monotonic() - self._began
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def per_run_mj(self, runs: int) -> Optional[float]:
        """Return mean power times the block's duration divided by `runs`, in mJ; `None` without readings."""
        if not self._readings_mw or not runs:
            return None
        return sum(self._readings_mw) / len(self._readings_mw) * self._seconds / runs

    def _sample(self, sensor: PowerSensor) -> None:
        while True:
            reading = sensor.power_mw()
            if reading is not None:
                self._readings_mw.append(reading)
            if self._stop.wait(_INTERVAL_S):
                return
