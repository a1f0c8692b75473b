"""The INA3221, three channels of voltage and current under one hwmon folder, and no power file."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from device_agent.sensors import read_int, read_text
from device_agent.sensors.energy.hwmon_power import channel_mw, chip_name, chips, update_interval_s
from device_agent.sensors.energy.reading import Reading, power_now

CHANNELS = (1, 2, 3)  # in4 to in7 are shunt voltages, in7 and curr4 sums


class Ina3221:
    """One chip: the sum over its connected channels of `in[123]_input` (mV) times `curr[123]_input` (mA).

    Source: Documentation/hwmon/ina3221.rst of the kernel.
    """

    estimated = False

    def __init__(self, chip: Path) -> None:
        self._chip = chip
        self._channels = tuple(connected(chip))

    @property
    def method(self) -> str:
        """Return "hwmon:" and the chip's name."""
        return f"hwmon:{chip_name(self._chip)}"

    @property
    def interval_s(self) -> float:
        """Return how often the chip has new values."""
        return update_interval_s(self._chip)

    def read(self) -> Optional[Reading]:
        """Return the present power; fails if any connected channel does."""
        return power_now(total_mw([channel_mw(self._chip, channel) for channel in self._channels]))


def find(sysfs: Path) -> list[Ina3221]:
    """Return every INA3221 with a connected channel."""
    return [Ina3221(chip) for chip in ina3221_chips(sysfs) if connected(chip)]


def ina3221_chips(sysfs: Path) -> list[Path]:
    """Return the hwmon folders of INA3221s."""
    return [chip for chip in chips(sysfs) if read_text(chip / "name") == "ina3221"]


def connected(chip: Path) -> dict[int, str]:
    """Return the label of every channel that is enabled, readable and not labelled NC (not connected)."""
    labels = {channel: read_text(chip / f"in{channel}_label") or f"channel{channel}" for channel in CHANNELS}
    return {
        channel: label
        for channel, label in labels.items()
        if label.upper() != "NC"
        and read_int(chip / f"in{channel}_enable") != 0
        and channel_mw(chip, channel) is not None
    }


def total_mw(powers_mw: list[Optional[float]]) -> Optional[float]:
    """Return the sum, or `None` if there is nothing to add up or any part is missing."""
    known = [power for power in powers_mw if power is not None]
    return sum(known) if known and len(known) == len(powers_mw) else None
