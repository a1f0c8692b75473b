"""Whose turn it is to measure on a simulated board: first come, first served."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from clock import SimulatedClock

from device_agent.errors import RequestError

Tell = Callable[[dict[str, object]], object]


@dataclass
class Turn:
    """The turn of one connection until a moment, or longer while it measures."""

    owner: object
    who: str
    until_s: float
    measuring: int = 0


@dataclass(frozen=True)
class Waiting:
    """Somebody in the line, since when; who is only imagined (`hold_s`) takes the turn when it comes."""

    who: str
    since_s: float
    hold_s: float | None = None


class Turns:
    """The line of one board. Real connections wait in it by letting simulated time pass."""

    def __init__(self, clock: SimulatedClock) -> None:
        self._clock = clock
        self._line: deque[Waiting] = deque()
        self._turn = Turn(None, "", 0.0)

    def imagine(self, who: str, hold_s: float) -> None:
        """Have another host stand in line, that keeps its turn for so many seconds."""
        self._line.append(Waiting(who, self._clock.now_s, hold_s))
        self._serve_imagined()

    def describe(self) -> dict[str, object]:
        """Return what the status tells."""
        self._serve_imagined()
        held, left = not self._free(), max(0.0, self._turn.until_s - self._clock.now_s)
        return {
            "holder": self._turn.who if held else None,
            "seconds_left": left if held else None,
            "waiting": len(self._line),
        }

    def take(self, owner: object, who: str, hold_s: float, wait_s: float, tell: Tell) -> Turn:
        """Return the connection's turn, prolonged, or wait for a new one.

        Raises:
            RequestError: `busy`.
        """
        now_s = self._clock.now_s
        if self._turn.owner is owner and self._turn.until_s > now_s:
            self._turn.until_s = max(self._turn.until_s, now_s + hold_s)
            return self._turn
        ticket = Waiting(who, now_s)
        self._line.append(ticket)
        try:
            self._wait(ticket, now_s + wait_s, tell)
            self._turn = Turn(owner, who, self._clock.now_s + hold_s)
            return self._turn
        finally:
            self._line.remove(ticket)

    def release(self, owner: object) -> bool:
        """Give back the turn of a connection; False if it has none."""
        held = self._turn.owner is owner
        if held:
            self._turn = Turn(None, "", self._clock.now_s)
        return held

    @contextmanager
    def measuring(self, owner: object, who: str, wait_s: float, tell: Tell) -> Iterator[None]:
        """Have the turn for one measurement."""
        turn = self.take(owner, who, 0.0, wait_s, tell)
        turn.measuring += 1
        try:
            yield
        finally:
            turn.measuring -= 1
            turn.until_s = max(turn.until_s, self._clock.now_s)

    def _wait(self, ticket: Waiting, deadline_s: float, tell: Tell) -> None:
        told = -1
        while not self._is_first(ticket):
            if self._clock.now_s >= deadline_s:
                raise RequestError("busy", f"{self._turn.who} measures on this board", "try again later")
            ahead = self._line.index(ticket) + (0 if self._free() else 1)
            if ahead != told:
                told = ahead
                tell({"phase": "waiting", "ahead": ahead, "holder": self._turn.who})
            lapses_s = deadline_s if self._turn.measuring else self._turn.until_s
            self._clock.step(min(deadline_s, lapses_s))

    def _is_first(self, ticket: Waiting) -> bool:
        self._serve_imagined()
        return self._free() and self._line[0] is ticket

    def _serve_imagined(self) -> None:
        """Let the imagined hosts at the head of the line have had their turns by now."""
        while self._free() and self._line and self._line[0].hold_s is not None:
            first = self._line.popleft()
            begin_s = max(self._turn.until_s, first.since_s)
            self._turn = Turn(first, first.who, begin_s + first.hold_s)

    def _free(self) -> bool:
        return not self._turn.measuring and self._turn.until_s <= self._clock.now_s
