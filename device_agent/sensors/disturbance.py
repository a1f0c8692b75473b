"""How much of some cores' time others took, from the kernel's accounts.

The kernel counts what a core did in ticks (10 ms as a rule) and what a process used in nanoseconds. The
difference between both over one span is what others had: programs, the kernel's own work, interrupts, and what
a hypervisor gave to other machines (steal). A tick goes to whoever runs when it comes, so a short span says
nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple, Optional

from device_agent.sensors import PROCFS, read_text

LEAST_SPAN_S = 0.5
DISTURBED_ABOVE = 0.03
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
# columns of a line "cpu0 …" in /proc/stat; guest time, further right, is within user time
_USER, _NICE, _SYSTEM, _IRQ, _SOFTIRQ, _STEAL = 1, 2, 3, 6, 7, 8


class _Account(NamedTuple):
    """What was used until a moment: the process's own time, and all of the cores', in seconds."""

    time_s: float
    own_s: float
    busy_s: float
    steal_s: float


class Disturbance:
    """Watches cores from its making on; this process is taken to run on them alone."""

    def __init__(self, cores: Iterable[int], procfs: Path = PROCFS) -> None:
        self._stat = procfs / "stat"
        self._names = {f"cpu{core}" for core in cores}
        self._begin = self._account()

    def others_share(self) -> Optional[float]:
        """Return the share of the cores' time that others took since; `None` below 0.5 s or without accounts.

        Where the kernel charges a process for time that was stolen from it, the difference misses that; so
        the share is never less than what was stolen.
        """
        found = self._since()
        return None if found is None else found[0]

    def disturbed(self) -> bool:
        """Say whether others took more than 3 % for certain: one tick a core may be an error of counting."""
        found = self._since()
        return found is not None and found[0] - found[1] > DISTURBED_ABOVE

    def _since(self) -> Optional[tuple[float, float]]:
        """Return the others' share and the share of one tick."""
        begin, end = self._begin, self._account()
        if begin is None or end is None or end.time_s - begin.time_s < LEAST_SPAN_S:
            return None
        span_s = end.time_s - begin.time_s
        stolen_s = end.steal_s - begin.steal_s
        others_s = (end.busy_s - begin.busy_s) - (end.own_s - begin.own_s)
        share = max(0.0, others_s, stolen_s) / (span_s * len(self._names))
        return min(1.0, share), _TICK_S / span_s

    def _account(self) -> Optional[_Account]:
        rows = [line.split() for line in (read_text(self._stat) or "").splitlines()]
        mine = [row for row in rows if row and row[0] in self._names and len(row) > _STEAL]
        if len(mine) < len(self._names):
            return None
        columns = (_USER, _NICE, _SYSTEM, _IRQ, _SOFTIRQ, _STEAL)
        busy = sum(int(row[column]) for row in mine for column in columns)
        steal = sum(int(row[_STEAL]) for row in mine)
        return _Account(perf_counter(), process_time(), busy * _TICK_S, steal * _TICK_S)
