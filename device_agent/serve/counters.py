"""Counts of what the agent did since it started."""

from __future__ import annotations

import threading


class Counters:
    """Counts by name and label; safe to call from several threads."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, name: str, label: str) -> None:
        """Count one more."""
        with self._turn:
            self._counts[name, label] = self._counts.get((name, label), 0) + 1

    def items(self) -> list[tuple[tuple[str, str], int]]:
        """Return all counts in the order of their names."""
        with self._turn:
            return sorted(self._counts.items())
