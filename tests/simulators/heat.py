"""How warm a simulated board is: it nears one temperature while it works, another while it rests."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp

from clock import SimulatedClock


@dataclass(frozen=True)
class Cooling:
    """A board's thermal nature (Newton's law of cooling).

    Attributes:
        ambient_c: what it cools down to.
        rise_c: how much warmer it gets when it works without end.
        constant_s: after so many seconds it has gone 63 % of the way.
        limit_c: from here on the firmware slows it down.
        slowdown: how many times longer an inference takes then.
    """

    ambient_c: float = 30.0
    rise_c: float = 40.0
    constant_s: float = 60.0
    limit_c: float = 80.0
    slowdown: float = 1.5


class Heat:
    """The temperature of one board."""

    def __init__(self, clock: SimulatedClock, cooling: Cooling) -> None:
        self._clock = clock
        self._cooling = cooling
        self._target_c = self._last_c = cooling.ambient_c
        self._at_s = clock.now_s

    def temperature_c(self) -> float:
        """Return the temperature now."""
        share = exp((self._at_s - self._clock.now_s) / self._cooling.constant_s)
        self._last_c = self._target_c + (self._last_c - self._target_c) * share
        self._at_s = self._clock.now_s
        return self._last_c

    def throttled(self) -> bool:
        """Say whether the firmware slows the board down now."""
        return self.temperature_c() >= self._cooling.limit_c

    def slowdown(self) -> float:
        """Return how many times longer an inference takes now."""
        return self._cooling.slowdown if self.throttled() else 1.0

    def work(self, seconds: float) -> None:
        """Let time pass in which the board works."""
        self._head_for(self._cooling.ambient_c + self._cooling.rise_c)
        try:
            self._clock.advance(seconds)
        finally:
            self._head_for(self._cooling.ambient_c)

    def _head_for(self, target_c: float) -> None:
        self.temperature_c()
        self._target_c = target_c
