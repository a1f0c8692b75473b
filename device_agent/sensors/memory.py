"""Memory of this process and of the board, from /proc."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional

from device_agent.sensors import PROCFS, read_text


class MemorySensor:
    """VmHWM and VmRSS of the calling process, and the board's total and available memory, in bytes.

    VmHWM, not `ru_maxrss`: the latter survives exec and shows the peak of whoever started the process.
    """

    name = "memory:VmHWM"

    def __init__(self, procfs: Path = PROCFS) -> None:
        self._procfs = procfs

    def process_peak_bytes(self) -> Optional[int]:
        """Return the most memory that this process ever had resident."""
        return self._field("self/status", "VmHWM")

    def process_bytes(self) -> Optional[int]:
        """Return the memory that this process has resident now."""
        return self._field("self/status", "VmRSS")

    def total_bytes(self) -> Optional[int]:
        """Return the board's memory."""
        return self._field("meminfo", "MemTotal")

    def available_bytes(self) -> Optional[int]:
        """Return what the kernel thinks it could still give out without swapping."""
        return self._field("meminfo", "MemAvailable")

    def _field(self, file: str, key: str) -> Optional[int]:
        found = re.search(rf"^{key}:\s+(\d+) kB$", read_text(self._procfs / file) or "", re.MULTILINE)
        return int(found.group(1)) * 1024 if found else None
