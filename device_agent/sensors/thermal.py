"""Temperature and throttling, from sysfs."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

from device_agent.sensors import SYSFS, read_int, read_text

_NOW_BITS = 0xF  # undervoltage, frequency capped, throttled, soft temperature limit
_HISTORY_SHIFT = 16  # the same four since the board's start


class ThermalSensor:
    """The processor's temperature, and whether something holds the processor back at this moment."""

    def __init__(self, sysfs: Path = SYSFS) -> None:
        self._zone = _processor_zone(sysfs / "class/thermal")
        self._firmware = sysfs / "devices/platform/soc/soc:firmware/get_throttled"
        self._coolers = _processor_coolers(sysfs / "class/thermal")

    @property
    def names(self) -> tuple[str, ...]:
        """Return what of it this board has."""
        zone = (f"thermal:{read_text(self._zone / 'type')}",) if self._zone else ()
        firmware = ("throttled:firmware",) if self._firmware.is_file() else ()
        return (*zone, *firmware, *(("throttled:cooling-device",) if self._coolers else ()))

    def temperature_c(self) -> Optional[float]:
        """Return degrees Celsius, or `None` without a thermal zone."""
        reading = read_int(self._zone / "temp") if self._zone else None
        return None if reading is None else reading / 1000

    def throttled(self) -> Optional[bool]:
        """Say whether firmware or a cooling device holds the processor back; `None` if none can tell."""
        bits = self._bits()
        states = [read_int(cooler / "cur_state") for cooler in self._coolers]
        known = [state > 0 for state in states if state is not None]
        known += [bool(bits & _NOW_BITS)] if bits is not None else []
        return any(known) if known else None

    def history(self) -> int:
        """Return what the firmware says held the processor back since the board's start, as bits; 0 if it says none.

        A bit that is new between two readings happened between them, however short it was.
        """
        return (self._bits() or 0) >> _HISTORY_SHIFT & _NOW_BITS

    def _bits(self) -> Optional[int]:
        text = read_text(self._firmware)
        try:
            return int(text, 16) if text is not None else None
        except ValueError:
            return None


def _processor_zone(folder: Path) -> Optional[Path]:
    """Return the zone whose type speaks of the processor, else the first one."""
    zones = sorted(folder.glob("thermal_zone*"))
    for zone in zones:
        kind = (read_text(zone / "type") or "").lower()
        if any(word in kind for word in ("cpu", "soc", "pkg")):
            return zone
    return zones[0] if zones else None


def _processor_coolers(folder: Path) -> list[Path]:
    coolers = sorted(folder.glob("cooling_device*"))
    return [cooler for cooler in coolers if "cpufreq" in (read_text(cooler / "type") or "")]
