"""A clock whose seconds pass only when something takes them, so that no test sleeps."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

Act = Callable[[], object]


class SimulatedClock:
    """Seconds since the simulation began; what is due on the way is done at its moment."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._order = itertools.count()
        self._due: list[tuple[float, int, Act]] = []

    def after(self, seconds: float, act: Act) -> None:
        """Have something done when so many seconds have passed from now."""
        heapq.heappush(self._due, (self.now_s + seconds, next(self._order), act))

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.step(until_s)

    def step(self, until_s: float) -> None:
        """Let time pass until the next thing that is due is done, at most until a moment."""
        if self._due and self._due[0][0] <= until_s:
            moment_s, _, act = heapq.heappop(self._due)
            self.now_s = max(self.now_s, moment_s)
            act()
        else:
            self.now_s = max(self.now_s, until_s)
