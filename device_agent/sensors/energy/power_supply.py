"""Batteries and supplies of the kernel's power_supply class."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from device_agent.sensors import read_int, read_text
from device_agent.sensors.energy.reading import Reading, power_now

# these state what was negotiated over USB-C, not what flows
_NEGOTIATED = ("tcpm-source-psy", "ucsi-source-psy")
_INTERVAL_S = 0.1  # some gauges average over a second, others tell the moment; looking often serves both


class PowerSupply:
    """A battery that discharges, or a supply that senses what it delivers.

    `power_now` (µW) where there is one, else `voltage_now` (µV) times `current_now` (µA). The kernel means a
    negative current to be a discharging one, but many drivers give none a sign, so `status` decides and the sign
    does only where there is no status.

    Source: Documentation/ABI/testing/sysfs-class-power of the kernel.
    """

    estimated = False
    interval_s = _INTERVAL_S

    def __init__(self, supply: Path) -> None:
        self._supply = supply
        self.method = f"power_supply:{supply.name}"

    def read(self) -> Optional[Reading]:
        """Return the present power; fails while a battery is charged or a supply is unplugged."""
        return power_now(self._power_mw() if self._delivers() else None)

    def _delivers(self) -> bool:
        if read_text(self._supply / "type") != "Battery":
            return read_int(self._supply / "online") != 0 and bool(self._power_mw())
        status = read_text(self._supply / "status")
        return status == "Discharging" if status else (read_int(self._supply / "current_now") or 0) < 0

    def _power_mw(self) -> Optional[float]:
        power_uw = read_int(self._supply / "power_now")
        if power_uw is not None:
            return abs(power_uw) / 1000
        microvolts = read_int(self._supply / "voltage_now")
        microamperes = read_int(self._supply / "current_now")
        return None if microvolts is None or microamperes is None else microvolts * abs(microamperes) / 1e9


def find(sysfs: Path) -> list[PowerSupply]:
    """Return the supplies, batteries first: a supply's current may be charging one."""
    folders = [
        path
        for path in sorted((sysfs / "class/power_supply").glob("*"))
        if not path.name.startswith(_NEGOTIATED)
        and read_text(path / "scope") != "Device"  # a mouse's or a pen's battery
    ]
    return [
        PowerSupply(path) for path in sorted(folders, key=lambda path: read_text(path / "type") != "Battery")
    ]
