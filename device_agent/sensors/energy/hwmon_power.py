"""Chips of the kernel's hwmon class that tell power, such as the INA219, INA226 and INA260."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from device_agent.sensors import read_int, read_text
from device_agent.sensors.energy.reading import SOONEST_S, USUAL_S, Reading, power_now

# what these see is one component's power, not the board's
_COMPONENTS = {"amdgpu", "radeon", "nouveau", "i915", "xe", "fam15h_power"}


class HwmonPower:
    """One chip: `power1_input` in µW, else `in1_input` (mV) times `curr1_input` (mA).

    Source: Documentation/hwmon/sysfs-interface.rst and ina2xx.rst of the kernel.
    """

    estimated = False

    def __init__(self, chip: Path) -> None:
        self._chip = chip
        self._has_power = (chip / "power1_input").is_file()

    @property
    def method(self) -> str:
        """Return "hwmon:" and the chip's name, with its label where the board's description gives one."""
        return f"hwmon:{chip_name(self._chip)}"

    @property
    def interval_s(self) -> float:
        """Return how often the chip has a new value."""
        return update_interval_s(self._chip)

    def read(self) -> Optional[Reading]:
        """Return the present power."""
        if self._has_power:
            power_uw = read_int(self._chip / "power1_input")
            return power_now(None if power_uw is None else power_uw / 1000)
        return power_now(channel_mw(self._chip, 1))


def find(sysfs: Path) -> list[HwmonPower]:
    """Return every chip that may tell the board's power; INA3221s have three channels and their own class."""
    return [
        HwmonPower(chip)
        for chip in chips(sysfs)
        if read_text(chip / "name") not in _COMPONENTS | {"ina3221"}
        and ((chip / "power1_input").is_file() or _has_channel_1(chip))
    ]


def chips(sysfs: Path) -> list[Path]:
    """Return the hwmon folders, except those that only mirror a power supply (it has its own class)."""
    supplies = {path.name.replace("-", "_") for path in (sysfs / "class/power_supply").glob("*")}
    folders = sorted((sysfs / "class/hwmon").glob("hwmon*"), key=lambda path: (len(path.name), path.name))
    return [chip for chip in folders if read_text(chip / "name") not in supplies]


def chip_name(chip: Path) -> str:
    """Return the chip's name, with a colon and its label where it has one."""
    label = read_text(chip / "label")
    return (read_text(chip / "name") or chip.name) + (f":{label}" if label else "")


def channel_mw(chip: Path, number: int) -> Optional[float]:
    """Return voltage times current of one channel in mW, or `None` if either is unreadable."""
    millivolts = read_int(chip / f"in{number}_input")
    milliamperes = read_int(chip / f"curr{number}_input")
    return None if millivolts is None or milliamperes is None else millivolts * milliamperes / 1000


def update_interval_s(chip: Path) -> float:
    """Return the chip's `update_interval` (ms) in seconds, at least 0.01; 0.02 where it states none."""
    interval_ms = read_int(chip / "update_interval")
    return USUAL_S if interval_ms is None else max(interval_ms / 1000, SOONEST_S)


def _has_channel_1(chip: Path) -> bool:
    return (chip / "in1_input").is_file() and (chip / "curr1_input").is_file()
