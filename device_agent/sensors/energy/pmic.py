"""The Raspberry Pi 5's power management chip: voltage and current of twelve rails, not of the board's input."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional

from device_agent.sensors.energy.reading import Reading, power_now
from device_agent.sensors.energy.vcio import Firmware

_LINE = re.compile(r"(\w+)_([AV])\s+(?:current|volt)\(\d+\)=(\d+\.\d+)[AV]")
_SLOPE = 1.1451  # a fit of users' wall meters against the rails' sum, no more
_OFFSET_W = 0.5879


class Pi5Pmic:
    """An estimate: the rails' sum times 1.1451 plus 0.5879 W; USB ports and the 5 V pins are not in it.

    Source: `vcgencmd pmic_read_adc`; the fit is the Raspberry Pi community's.
    """

    method = "estimated:pmic"
    estimated = True
    interval_s = 0.15  # asking more than ten times a second slows the board

    def __init__(self, firmware: Firmware) -> None:
        self._firmware = firmware

    def read(self) -> Optional[Reading]:
        """Return the estimated present power."""
        rails_w = rails_power_w(self._firmware.ask("pmic_read_adc") or "")
        return power_now(None if rails_w is None else (rails_w * _SLOPE + _OFFSET_W) * 1000)


def find(dev: Path) -> list[Pi5Pmic]:
    """Return the chip where there is Raspberry Pi firmware; only a Pi 5's answers."""
    firmware = Firmware(dev)
    return [Pi5Pmic(firmware)] if firmware.present else []


def rails_power_w(answer: str) -> Optional[float]:
    """Return the sum of volts times amperes over the rails that have both; `None` without such a rail."""
    values: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for rail, kind, value in _LINE.findall(answer):
        values[kind][rail] = float(value)
    both = values["A"].keys() & values["V"].keys()
    return sum(values["A"][rail] * values["V"][rail] for rail in both) if both else None
