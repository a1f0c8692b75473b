"""Energy sensors: one file a kernel interface, each with a class and a `find`; here they are put in order.

A further kind is one more file, named in `find`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from device_agent.sensors import SYSFS
from device_agent.sensors.energy import (
    hwmon_energy,
    hwmon_power,
    ina3221,
    jetson,
    pmic,
    power_supply,
    powercap,
)
from device_agent.sensors.energy.meter import Meter
from device_agent.sensors.energy.reading import EnergySensor, Reading

__all__ = ["EnergySensor", "Reading", "find"]


def find(
    sysfs: Path = SYSFS, dev: Path = Path("/dev"), meter: Optional[str] = None
) -> tuple[EnergySensor, ...]:
    """Return all energy sensors that answer now, best first; estimating ones come last.

    Args:
        sysfs: the root of the kernel's sysfs.
        dev: the root of the device files.
        meter: an external meter as `Meter` names it; one that is named must answer.

    Raises:
        RequestError: `no_meter`.
    """
    board: list[EnergySensor] = [*jetson.find(sysfs)]
    chips = [] if board else ina3221.find(sysfs)  # a Jetson's channels are those same chips'
    board += [*hwmon_energy.find(sysfs), *hwmon_power.find(sysfs), *chips]
    board += [*powercap.find(sysfs), *power_supply.find(sysfs), *pmic.find(dev)]
    answering = [sensor for sensor in board if sensor.read() is not None]
    return (*([Meter(meter)] if meter else []), *answering)
