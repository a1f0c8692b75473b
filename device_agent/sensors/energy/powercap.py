"""Energy counters of the kernel's powercap class: RAPL on x86 processors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional

from device_agent.sensors import read_int, read_text
from device_agent.sensors.energy.reading import USUAL_S, Reading, energy_now

_TOP_ZONE = re.compile(r"[^:]+:\d+")  # a child zone has a second number


class Powercap:
    """The whole platform ("psys") or the processor packages; memory and cores are in these already.

    One zone's `energy_uj` is handed on as it is, with `max_energy_range_uj` where it wraps. Several packages are
    added up here, each one's wraps taken out on the way.

    Source: Documentation/power/powercap/powercap.rst of the kernel.
    """

    estimated = False
    interval_s = USUAL_S

    def __init__(self, zones: list[Path]) -> None:
        self._zones = zones
        self._wraps_at_uj = [read_int(zone / "max_energy_range_uj") for zone in zones]
        self._before: list[int] = []
        self._total_uj = 0
        self.method = "powercap:" + "+".join(read_text(zone / "name") or zone.name for zone in zones)

    def read(self) -> Optional[Reading]:
        """Return the counter; fails if any zone does."""
        counters = [read_int(zone / "energy_uj") for zone in self._zones]
        known = [counter for counter in counters if counter is not None]
        if not known or len(known) < len(counters):
            return None
        return energy_now(known[0], self._wraps_at_uj[0]) if len(known) == 1 else energy_now(self._sum(known))

    def _sum(self, counters: list[int]) -> int:
        for before, now, wraps_at in zip(self._before, counters, self._wraps_at_uj):
            self._total_uj += now - before + (wraps_at or 0 if now < before else 0)
        self._before = counters
        return self._total_uj


def find(sysfs: Path) -> list[Powercap]:
    """Return psys if it counts, else all packages; nothing where only root may read (the usual setting)."""
    zones = _counting_zones(sysfs)
    platform = [zone for zone in zones if read_text(zone / "name") == "psys"]
    packages = [zone for zone in zones if (read_text(zone / "name") or "").startswith("package-")]
    chosen = platform[:1] or packages
    return [Powercap(chosen)] if chosen else []


def _counting_zones(sysfs: Path) -> list[Path]:
    """Return the top zones of one control type: intel-rapl-mmio would tell of the same package again."""
    paths = sorted((sysfs / "class/powercap").glob("*:*"))
    zones = [path for path in paths if _TOP_ZONE.fullmatch(path.name) and read_int(path / "energy_uj")]
    kinds = [zone.name.partition(":")[0] for zone in zones]
    return [zone for zone, kind in zip(zones, kinds) if kind == min(kinds)]
