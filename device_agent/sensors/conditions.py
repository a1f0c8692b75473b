"""The board's state at one moment, put together from the single sensors."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from device_agent.sensors import SYSFS, energy
from device_agent.sensors.frequency import FrequencySensor
from device_agent.sensors.memory import MemorySensor
from device_agent.sensors.thermal import ThermalSensor

_WHY_MISSING = {
    "governor": "the kernel offers no cpufreq for this core",
    "frequency_mhz": "the kernel offers no cpufreq for this core",
    "temperature_c": "the kernel offers no thermal zone",
    "throttled": "neither firmware nor cooling devices report throttling",
    "load_1min": "the kernel offers no load average",
}


class ConditionSensors:
    """Reads the conditions under which one core works."""

    def __init__(self, core: int = 0, sysfs: Path = SYSFS) -> None:
        self._frequency = FrequencySensor(core, sysfs)
        self._thermal = ThermalSensor(sysfs)
        self._power = energy.find(sysfs)

    @property
    def names(self) -> list[str]:
        """Return the sensors that this board has."""
        frequency = [FrequencySensor.name] if self._frequency.present else []
        power = [f"energy:{self._power.method}"] if self._power else []
        return [MemorySensor.name, *frequency, *self._thermal.names, *power]

    def read(self) -> dict[str, Any]:
        """Return governor, frequency_mhz, temperature_c, throttled and load_1min; `None` where unknown."""
        return {
            "governor": self._frequency.governor(),
            "frequency_mhz": self._frequency.frequency_mhz(),
            "temperature_c": self._thermal.temperature_c(),
            "throttled": self._thermal.throttled(),
            "load_1min": _load_1min(),
        }

    def throttled(self) -> bool:
        """Say whether something holds the processor back for certain."""
        return bool(self._thermal.throttled())


def why_missing(conditions: dict[str, Any]) -> dict[str, str]:
    """Return the reason for each reading that is `None`."""
    return {name: _WHY_MISSING[name] for name, value in conditions.items() if value is None}


def _load_1min() -> Any:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
