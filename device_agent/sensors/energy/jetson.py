"""The power monitors of NVIDIA's Jetson boards: INA3221s, with a driver of NVIDIA's own on older kernels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Optional

from device_agent.sensors import read_int, read_text
from device_agent.sensors.energy.hwmon_power import channel_mw, update_interval_s
from device_agent.sensors.energy.ina3221 import connected, ina3221_chips, total_mw
from device_agent.sensors.energy.reading import USUAL_S, Reading, power_now

_TOTALS = ("VDD_IN", "POM_5V_IN")  # the module's input: every other rail hangs on it
_PART_OF = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}  # on the AGX Orin the second feeds the first

Rails = dict[str, Callable[[], Optional[float]]]  # a rail's name → its present power in mW


class JetsonPower:
    """The module's power: its input rail alone where it is sensed, else the sum of the rails.

    Source: "Platform Power and Performance" in NVIDIA's Jetson Linux Developer Guide.
    """

    estimated = False

    def __init__(self, rails: Rails, interval_s: float) -> None:
        names = [name for name in _TOTALS if name in rails][:1] or _summands(rails)
        self._rails = [rails[name] for name in names]
        self.method = "jetson:" + "+".join(names)
        self.interval_s = interval_s

    def read(self) -> Optional[Reading]:
        """Return the present power; fails if any rail does."""
        return power_now(total_mw([rail() for rail in self._rails]))


def find(sysfs: Path) -> list[JetsonPower]:
    """Return the board's monitor, through whichever of the two drivers the kernel has."""
    for rails, interval_s in (_old_rails(sysfs), _new_rails(sysfs)):
        if rails and (_is_tegra(sysfs) or any(name in rails for name in _TOTALS)):
            return [JetsonPower(rails, interval_s)]
    return []


def _summands(rails: Rails) -> list[str]:
    return [name for name in rails if _PART_OF.get(name) not in rails]


def _is_tegra(sysfs: Path) -> bool:
    return "nvidia,tegra" in (read_text(sysfs / "firmware/devicetree/base/compatible") or "")


def _old_rails(sysfs: Path) -> tuple[Rails, float]:
    """Read through NVIDIA's driver: `rail_name_N` and `in_powerN_input` (mW) in an iio folder a chip."""
    rails: Rails = {}
    for names in sorted((sysfs / "bus/i2c/drivers/ina3221x").glob("*/iio*device*/rail_name_*")):
        power = names.with_name(f"in_power{names.name[-1]}_input")
        name = read_text(names) or ""
        if name and name.upper() != "NC" and read_int(power) is not None:
            rails[name] = partial(read_int, power)
    return rails, USUAL_S


def _new_rails(sysfs: Path) -> tuple[Rails, float]:
    """Read through the kernel's own driver: labelled channels of hwmon chips."""
    rails: Rails = {}
    found = ina3221_chips(sysfs)
    for chip in found:
        for channel, label in connected(chip).items():
            rails[label] = partial(channel_mw, chip, channel)
    return rails, max((update_interval_s(chip) for chip in found), default=USUAL_S)
