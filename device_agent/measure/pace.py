"""How fast the processor runs just now, by a yardstick: the same small work, timed between inferences.

A core may do the same work in twice the time although no program runs beside it and no account of the kernel tells:
another machine of the same host uses the other half of the core, a hypervisor shares its time out, something lowers the
clock. This comes and goes within seconds and never makes anything faster, so the shortest time that the yardstick took
is the core's full pace, and what was timed while it took clearly longer says nothing of the model.

Looks are compared between inferences of one model first of all: what a model does lowers the clock, too.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import inf
from time import perf_counter_ns
from typing import NamedTuple, Optional

from device_agent.measure.timing import Call, now_s, timed_runs
from device_agent.statistics import median

SLOWED_ABOVE = 1.15  # times the shortest look of the same model; looks differ by some 3 % of themselves
ELSEWHERE = 1.3  # so much wide vector instructions lower an x86 core's clock, for half a millisecond
PATIENCE = 3  # so much more slowed than full-paced time is waited out,
LEAST_S = 1.0  # and than this
LEAST_SHARE = 0.05  # of the time, and
LEAST_RUNS = 64  # inferences at full pace are enough to count alone where that is rare
STRETCH_S = 0.05  # how often the pace is looked at, between two inferences
_STEPS = 250  # of the yardstick: some 15 µs on an x86 server
_RUNS = 3  # of the yardstick in one look: an interrupt hits one of them


class Pace:
    """The core's pace in one process, look by look.

    Args:
        usual_ns: The shortest that the yardstick took in other processes, `None` if nobody knows.
    """

    def __init__(self, usual_ns: Optional[float] = None) -> None:
        self._usual_ns = inf if usual_ns is None else usual_ns
        self._shortest_ns = inf

    @property
    def shortest_ns(self) -> Optional[float]:
        """The shortest look, `None` before the first."""
        return None if self._shortest_ns == inf else self._shortest_ns

    def look(self) -> float:
        """Return the yardstick's time in nanoseconds."""
        _yardstick_ns()  # the inference before it took the caches
        took_ns = median([_yardstick_ns() for _ in range(_RUNS)])
        self._shortest_ns = min(self._shortest_ns, took_ns)
        return took_ns

    def wait(self, longest_s: float) -> None:
        """Keep the core busy until it is at full pace or time is over."""
        end_ns = perf_counter_ns() + longest_s * 1e9
        while self.slowdown(self.look(), inf) > SLOWED_ABOVE and perf_counter_ns() < end_ns:
            pass

    def slowdown(self, look_ns: float, shortest_here_ns: float) -> float:
        """Return how many times longer one look took than it takes at full pace; not above 1 where nobody knows.

        It is compared with the shortest look between inferences of the same model, which may all have been slow, and
        with the shortest one of all, which may have been at a clock that this model does not allow.
        """
        elsewhere_ns = ELSEWHERE * min(self._shortest_ns, self._usual_ns)
        return max(look_ns / shortest_here_ns, look_ns / elsewhere_ns)


class Stretch(NamedTuple):
    """A row of inferences, how long it lasted, and the longer one of the looks at its ends (the first has but one)."""

    samples_ns: array[int]
    seconds: float
    look_ns: float


class Stretches:
    """Rows of inferences, told apart by the pace that the core had meanwhile.

    What counts as slowed is decided anew whenever it is asked: the full pace may show late.
    """

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._all: list[Stretch] = []
        self._look_ns = 0.0
        self._shortest_ns = inf

    def run(self, call: Call, runs: int, until_s: float) -> None:
        """Run up to `runs` inferences, ending early when `until_s` has come, as one more row."""
        samples, begin_s = array("q"), now_s()
        timed_runs(call, samples, runs, until_s)
        self.add(samples, now_s() - begin_s)

    def add(self, samples_ns: array[int], seconds: float) -> None:
        """Take a row of inferences that ended just now: a look follows an inference always, to be like others."""
        before_ns, self._look_ns = self._look_ns, self._pace.look()
        self._shortest_ns = min(self._shortest_ns, self._look_ns)
        self._all.append(Stretch(samples_ns, seconds, max(before_ns, self._look_ns)))

    def in_all(self) -> tuple[int, float]:
        """Return the number and the seconds of all inferences."""
        return _amount(self._all)

    def at_full_pace(self) -> tuple[int, float]:
        """Return the number and the seconds of the inferences at full pace."""
        return _amount([stretch for stretch in self._all if not self._slowed(stretch)])

    def hopeless(self, least_s: float) -> bool:
        """Say whether too much was slowed to wait on for `least_s` seconds at full pace."""
        return self._slowed_s() > PATIENCE * max(least_s, LEAST_S, self.at_full_pace()[1])

    def counted(self) -> tuple[array[int], bool]:
        """Return the nanoseconds that count, and whether slowed ones had to be among them.

        Those at full pace count; where it was rare and they are not enough, all do.
        """
        kept, kept_s = self.at_full_pace()
        slowed_s = self._slowed_s()
        enough = kept >= LEAST_RUNS and kept_s >= LEAST_SHARE * (kept_s + slowed_s)
        all_of_them = slowed_s > PATIENCE * kept_s and not enough
        samples: array[int] = array("q")
        for stretch in self._all:
            if all_of_them or not self._slowed(stretch):
                samples.extend(stretch.samples_ns)
        return samples, all_of_them

    def during(self) -> dict[str, Optional[float]]:
        """Return `slowed_share` of the time, and `slowdown`, how many times longer the yardstick took then."""
        factors = [self._slowdown(stretch) for stretch in self._all if self._slowed(stretch)]
        total_s = self.in_all()[1]
        return {
            "slowed_share": self._slowed_s() / total_s if total_s else 0.0,
            "slowdown": median(factors) if factors else None,
        }

    def _slowed(self, stretch: Stretch) -> bool:
        return self._slowdown(stretch) > SLOWED_ABOVE

    def _slowdown(self, stretch: Stretch) -> float:
        return self._pace.slowdown(stretch.look_ns, self._shortest_ns)

    def _slowed_s(self) -> float:
        return _amount([stretch for stretch in self._all if self._slowed(stretch)])[1]


def _amount(stretches: Sequence[Stretch]) -> tuple[int, float]:
    return sum(len(each.samples_ns) for each in stretches), sum(each.seconds for each in stretches)


def _yardstick_ns() -> int:
    begin, total = perf_counter_ns(), 0
    for step in range(_STEPS):
        total += step * step
    return perf_counter_ns() - begin
