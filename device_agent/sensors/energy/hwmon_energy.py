"""Energy counters of the kernel's hwmon class (`energy*_input`, µJ), such as the INA228's."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from device_agent.sensors import read_int, read_text
from device_agent.sensors.energy.hwmon_power import chip_name, chips, update_interval_s
from device_agent.sensors.energy.reading import Reading, energy_now


class HwmonEnergy:
    """One counter of a chip. Its width is not told, so a counter that goes backwards is a fault, not a wrap.

    Source: Documentation/hwmon/sysfs-interface.rst of the kernel.
    """

    estimated = False

    def __init__(self, counter: Path, alone: bool) -> None:
        self._counter = counter
        self._alone = alone

    @property
    def method(self) -> str:
        """Return "hwmon-energy:" and the chip's name; the counter's, too, where the chip has several."""
        chip = f"hwmon-energy:{chip_name(self._counter.parent)}"
        return chip if self._alone else f"{chip}:{_label(self._counter)}"

    @property
    def interval_s(self) -> float:
        """Return how often the chip has a new value."""
        return update_interval_s(self._counter.parent)

    def read(self) -> Optional[Reading]:
        """Return the counter."""
        return energy_now(read_int(self._counter))


def find(sysfs: Path) -> list[HwmonEnergy]:
    """Return every counter but those of single cores, which their socket's holds already (amd_energy)."""
    found = []
    for chip in chips(sysfs):
        counters = [
            path for path in sorted(chip.glob("energy*_input")) if not _label(path).startswith("Ecore")
        ]
        found += [HwmonEnergy(counter, len(counters) == 1) for counter in counters]
    return found


def _label(counter: Path) -> str:
    name = counter.name[: -len("_input")]
    return read_text(counter.with_name(f"{name}_label")) or name
