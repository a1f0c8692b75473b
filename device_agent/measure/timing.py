"""Running a model while the clock runs: single inferences, and the warm-up before they count."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from time import perf_counter_ns
from typing import Any

from device_agent.statistics import median

SETTLED_WITHIN = 0.02
_LEAST_WARMUP_S = (
    0.5  # a governor may look at the load but every tenth of a second before it raises the clock
)
_SLOT_S = 0.1
_SLOT_SAMPLES = 500  # more would be seen in the memory peak, which is read after the warm-up

Call = Callable[[], object]
Tell = Callable[[dict[str, Any]], None]


def now_s() -> float:
    """Return the time on the clock of all functions here, in seconds."""
    return perf_counter_ns() / 1e9


def timed(act: Callable[[], Any]) -> tuple[Any, float]:
    """Do something once; return its result and the milliseconds it took."""
    begin = perf_counter_ns()
    result = act()
    return result, (perf_counter_ns() - begin) / 1e6


def timed_runs(call: Call, samples_ns: array[int], runs: int, until_s: float) -> None:
    """Append the nanoseconds of up to `runs` single inferences, ending early when `until_s` has come."""
    clock, keep = perf_counter_ns, samples_ns.append
    until_ns = int(until_s * 1e9)
    for _ in range(runs):
        begin = clock()
        call()
        end = clock()
        keep(end - begin)
        if end >= until_ns:
            return


def warm_up(call: Call, longest_s: float, tell: Tell) -> None:
    """Run for half a second and on until two successive medians agree within 2 %, or `longest_s` is over.

    A median is that of a tenth of a second or of one inference, whichever is longer; so a model of seconds needs
    two of its inferences, and the longest time is exceeded by less than one.
    """
    tell({"phase": "warmup", "done": 0, "of": 1})
    begin_s = now_s()
    end_s = begin_s + longest_s
    medians: list[float] = []
    while now_s() < end_s:
        medians.append(_slot_ns(call, min(now_s() + _SLOT_S, end_s)))
        if now_s() - begin_s >= _LEAST_WARMUP_S and _settled(medians):
            return


def _settled(medians: list[float]) -> bool:
    return len(medians) > 1 and abs(medians[-1] - medians[-2]) <= SETTLED_WITHIN * medians[-2]


def _slot_ns(call: Call, until_s: float) -> float:
    """Run until a moment, at least once; return the median of the first inferences."""
    samples = array("q")
    timed_runs(call, samples, _SLOT_SAMPLES, until_s)
    while now_s() < until_s:
        call()
    return median(samples)
