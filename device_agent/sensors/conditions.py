"""The board's state at one moment and over a while, put together from the single sensors."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from device_agent.sensors import PROCFS, SYSFS
from device_agent.sensors.disturbance import LEAST_SPAN_S, Disturbance
from device_agent.sensors.frequency import FrequencySensor
from device_agent.sensors.memory import MemorySensor
from device_agent.sensors.thermal import ThermalSensor

_NO_CPUFREQ = "the kernel offers no cpufreq for this core"
_NO_ZONE = "the kernel offers no thermal zone"
_WHY_MISSING = {
    "governor": _NO_CPUFREQ,
    "frequency_mhz": _NO_CPUFREQ,
    "temperature_c": _NO_ZONE,
    "throttled": "neither firmware nor cooling devices report throttling",
    "load_1min": "the kernel offers no load average",
    "during.others_share": f"the kernel offers no accounts of the cores, or it took less than {LEAST_SPAN_S:g} s",
}


class ConditionSensors:
    """Reads the conditions under which one core works."""

    def __init__(self, core: int = 0, sysfs: Path = SYSFS, procfs: Path = PROCFS) -> None:
        self._sysfs = sysfs
        self._procfs = procfs
        self._frequency = FrequencySensor(core, sysfs)
        self._thermal = ThermalSensor(sysfs)

    @property
    def names(self) -> list[str]:
        """Return the sensors that tell these conditions."""
        frequency = [FrequencySensor.name] if self._frequency.present else []
        return [MemorySensor.name, *frequency, *self._thermal.names]

    def read(self) -> dict[str, Any]:
        """Return governor, frequency_mhz, temperature_c, throttled and load_1min; `None` where unknown."""
        return {
            "governor": self._frequency.governor(),
            "frequency_mhz": self._frequency.frequency_mhz(),
            "temperature_c": self._thermal.temperature_c(),
            "throttled": self._thermal.throttled(),
            "load_1min": _load_1min(),
        }

    def temperature_c(self) -> Optional[float]:
        """Return the processor's temperature, or `None` without a thermal zone."""
        return self._thermal.temperature_c()

    def watch(self, cores: Iterable[int]) -> Watch:
        """Return a watch over the board that begins now; `cores` are those that this process is pinned to."""
        cores = sorted(cores)
        frequencies = [FrequencySensor(core, self._sysfs) for core in cores]
        return Watch(frequencies, self._thermal, Disturbance(cores, self._procfs))


class Watch:
    """What happens to the board while something runs; to be asked to look now and then, and at the end."""

    def __init__(
        self, frequencies: Iterable[FrequencySensor], thermal: ThermalSensor, disturbance: Disturbance
    ) -> None:
        self._sensors = tuple(frequencies)
        self._thermal = thermal
        self._disturbance = disturbance
        self._history = thermal.history()
        self._frequencies_mhz: list[float] = []
        self._temperatures_c: list[float] = []
        self._throttled: list[bool] = []
        self.look()

    def look(self) -> None:
        """Read the sensors once more; costs some tens of microseconds."""
        throttled = self._thermal.throttled()
        if throttled is not None:
            self._throttled.append(throttled or bool(self._thermal.history() & ~self._history))
        readings = [sensor.frequency_mhz() for sensor in self._sensors]
        self._frequencies_mhz += [reading for reading in readings if reading is not None]
        temperature_c = self._thermal.temperature_c()
        self._temperatures_c += [] if temperature_c is None else [temperature_c]

    def during(self) -> dict[str, Any]:
        """Look once more and return the fields of `During`; `None` where the board does not tell."""
        self.look()
        return {
            "frequency_min_mhz": min(self._frequencies_mhz, default=None),
            "frequency_max_mhz": max(self._frequencies_mhz, default=None),
            "temperature_max_c": max(self._temperatures_c, default=None),
            "throttled": any(self._throttled) if self._throttled else None,
            "others_share": self._disturbance.others_share(),
        }

    def disturbed(self) -> bool:
        """Say whether others took more of the cores' time than a measurement bears."""
        return self._disturbance.disturbed()


def why_missing(conditions: dict[str, Any]) -> dict[str, str]:
    """Return the reason for each reading that is `None`."""
    return {name: _WHY_MISSING[name] for name, value in conditions.items() if value is None}


def _load_1min() -> Any:
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
