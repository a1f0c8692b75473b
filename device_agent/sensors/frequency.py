"""Clock frequency, governor and relative speed of a core, from sysfs."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from device_agent.sensors import SYSFS, read_int, read_text


class FrequencySensor:
    """The cpufreq interface of one core."""

    name = "frequency:cpufreq"

    def __init__(self, core: int, sysfs: Path = SYSFS) -> None:
        self._cpu = sysfs / f"devices/system/cpu/cpu{core}"

    @property
    def present(self) -> bool:
        """Say whether the kernel offers cpufreq for this core."""
        return (self._cpu / "cpufreq").is_dir()

    def governor(self) -> Optional[str]:
        """Return the governor's name."""
        return read_text(self._cpu / "cpufreq/scaling_governor")

    def frequency_mhz(self) -> Optional[float]:
        """Return the present frequency in MHz."""
        reading = read_int(self._cpu / "cpufreq/scaling_cur_freq")
        return None if reading is None else reading / 1000

    def rank(self) -> int:
        """Return a number that grows with the core's speed (capacity, else top frequency, else 0)."""
        capacity = read_int(self._cpu / "cpu_capacity")
        return capacity if capacity is not None else read_int(self._cpu / "cpufreq/cpuinfo_max_freq") or 0


def fastest_cores(allowed: set[int], count: int, sysfs: Path = SYSFS) -> tuple[int, ...]:
    """Choose cores to pin to: the fastest kind, then the highest numbers (core 0 serves interrupts)."""
    ranked = sorted(allowed, key=lambda core: (FrequencySensor(core, sysfs).rank(), core), reverse=True)
    return tuple(sorted(ranked[:count]))
