"""What the kernel can tell about the board: one small class a kind of reading, the sysfs root injectable.

A reading that the kernel does not offer is `None`; nothing here guesses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Optional

SYSFS = Path("/sys")
PROCFS = Path("/proc")


def read_text(path: Path) -> Optional[str]:
    """Return a small kernel file's text without the newline at its end, or `None`."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return None


def read_int(path: Path) -> Optional[int]:
    """Return the whole number that a small kernel file holds, or `None`."""
    text = read_text(path)
    try:
        return int(text) if text is not None else None
    except ValueError:
        return None
