"""Who may measure now: one at a time, first come, first served.

Two measurements at once would spoil each other. A single one takes the turn for itself; who has several to
make takes a lease, which keeps the turn until it is given back, its time is over or its connection is gone.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Optional

from device_agent.errors import RequestError
from device_agent.work.workers import Cancellation

Tell = Callable[[dict[str, Any]], None]


class _Lease:
    """The turn: whose connection it is, in words who that is, until when, and how many workers run now."""

    def __init__(self, owner: object, who: str, until_s: float, busy: int) -> None:
        self.owner = owner
        self.who = who
        self.until_s = until_s
        self.busy = busy


class Leases:
    """The queue for the turn of one agent; nobody polls in it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[object] = deque()
        self._holder: Optional[_Lease] = None

    def describe(self) -> dict[str, Any]:
        """Return who holds the turn, for how many seconds more, and how many wait."""
        with self._changed:
            holder = None if self._free() else self._holder
            left = None if holder is None else max(0.0, holder.until_s - time.monotonic())
            return {
                "holder": holder.who if holder else None,
                "seconds_left": left,
                "waiting": len(self._waiting),
            }

    def acquire(
        self, owner: object, who: str, hold_s: float, wait_s: float, cancellation: Cancellation, tell: Tell
    ) -> None:
        """Wait for the turn and keep it for at most `hold_s` seconds.

        Args:
            owner: the connection; it has one lease at most, a second call prolongs it.
            who: it in words, for those who wait.
            hold_s: after this the turn goes to the next one, as soon as a measurement under way has ended.
            wait_s: how long to wait.
            cancellation: ends the wait.
            tell: is told {"phase": "waiting", "ahead": n, "holder": "…"} while others are first.

        Raises:
            RequestError: `busy` when the wait was too long, `cancelled`.
        """
        self._take(owner, who, hold_s, wait_s, cancellation, tell, busy=0)

    def release(self, owner: object) -> bool:
        """Give back the turn that a connection holds; False if it held none."""
        with self._changed:
            held = self._holder is not None and self._holder.owner is owner
            if held:
                self._holder = None
                self._changed.notify_all()
            return held

    @contextlib.contextmanager
    def turn(
        self, owner: object, who: str, wait_s: float, cancellation: Cancellation, tell: Tell
    ) -> Iterator[None]:
        """Have the turn for one measurement: under the connection's lease if it has one, else by waiting."""
        lease = self._take(owner, who, 0.0, wait_s, cancellation, tell, busy=1)
        try:
            yield
        finally:
            with self._changed:
                lease.busy -= 1
                self._changed.notify_all()

    def _take(
        self,
        owner: object,
        who: str,
        hold_s: float,
        wait_s: float,
        cancellation: Cancellation,
        tell: Tell,
        busy: int,
    ) -> _Lease:
        """Return the connection's lease, prolonged, or a new one as soon as it is its turn."""
        ticket = object()
        deadline = time.monotonic() + wait_s
        cancellation.on_cancel(self._wake)
        try:
            with self._changed:
                now = time.monotonic()
                held = self._holder
                if held is not None and held.owner is owner and held.until_s > now:
                    held.until_s = max(held.until_s, now + hold_s)
                    held.busy += busy
                    return held
                self._waiting.append(ticket)
                try:
                    self._await_turn(ticket, deadline, cancellation, tell)
                    self._holder = _Lease(owner, who, time.monotonic() + hold_s, busy)
                    return self._holder
                finally:
                    self._waiting.remove(ticket)
                    self._changed.notify_all()
        finally:
            cancellation.on_cancel(None)

    def _await_turn(self, ticket: object, deadline: float, cancellation: Cancellation, tell: Tell) -> None:
        told = -1
        while not (self._waiting[0] is ticket and self._free()):
            cancellation.raise_if_cancelled()
            now = time.monotonic()
            holder = self._holder
            if now >= deadline:
                raise RequestError(
                    "busy",
                    f"{holder.who if holder else 'somebody'} measures on this board",
                    "try again later, or wait longer",
                )
            ahead = self._waiting.index(ticket) + (0 if self._free() else 1)
            if ahead != told:
                told = ahead
                tell({"phase": "waiting", "ahead": ahead, "holder": holder.who if holder else None})
            lapses = holder.until_s - now if holder and not holder.busy else deadline - now
            self._changed.wait(max(0.001, min(deadline - now, lapses)))
        cancellation.raise_if_cancelled()

    def _free(self) -> bool:
        holder = self._holder
        return holder is None or (not holder.busy and holder.until_s <= time.monotonic())

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()
