"""Times many small models in one worker, for a latency table.

On a shared machine noise only ever adds time, and speed drifts. So every model is visited in several passes
over all of them, a few runs a pass after a short warm-up; a pass gives its median, and the lower quartile of
the passes' medians is the model's time: a model that was disturbed in some of its passes is not shifted. Passes while
the processor did not run at its full pace (`pace.py`) are made again, a few times, and do not count.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

from device_agent.errors import RequestError
from device_agent.measure import runtimes
from device_agent.measure.inputs import prebuilt
from device_agent.measure.pace import SLOWED_ABOVE, Pace
from device_agent.measure.protocol import MeasuringProtocol
from device_agent.measure.timing import Call, now_s, timed_runs
from device_agent.sensors.memory import MemorySensor
from device_agent.statistics import median, percentile

PASSES = 5
LEAST_PASSES = 3  # at full pace; with fewer all passes count
LEAST_WAIT_S = 2.0  # for full pace
_WARM_RUNS = 3
_WARM_S = 0.001
_MOST_OPEN = 128
_MEMORY_SHARE = 0.25  # of what is available; sessions stay open between passes, so a batch must fit


class Visited:
    """One model of the table: its open session's call, and its times pass by pass."""

    def __init__(self, index: int, call: Optional[Call], error: Optional[str]) -> None:
        self.index = index
        self.call = call
        self.error = error
        self.passes: list[tuple[float, float]] = []  # median, and the longer look around it, in nanoseconds
        self.runs = 0

    def visit(self, protocol: MeasuringProtocol, pace: Pace) -> None:
        """Warm up briefly, then time this pass's share of the runs."""
        if self.call is None:
            return
        try:
            _warm(self.call, protocol.layer_max_duration_s / PASSES)
            samples, before_ns = array("q"), pace.look()
            until_s = now_s() + protocol.layer_max_duration_s / PASSES
            timed_runs(self.call, samples, -(-protocol.layer_min_runs // PASSES), until_s)
            self.passes.append((median(samples), max(before_ns, pace.look())))
            self.runs += len(samples)
        except Exception as error:  # noqa: BLE001 - a runtime may raise anything; the other models go on
            self.call, self.error = None, runtimes.refused(error).message

    def slowed(self, pace: Pace) -> bool:
        """Say whether too few passes were at full pace."""
        return self.call is not None and len(self._at_full_pace(pace)) < LEAST_PASSES

    def timing(self, pace: Pace) -> dict[str, Any]:
        """Return `p50_ms`, `runs` and `error`; a model that failed has 0 ms, 0 runs and a text."""
        if self.error is not None or not self.passes:
            return {"p50_ms": 0.0, "runs": 0, "error": self.error or "it was not timed"}
        counted = self._at_full_pace(pace)
        if len(counted) < LEAST_PASSES:
            counted = [median_ns for median_ns, _ in self.passes]
        return {"p50_ms": percentile(sorted(counted), 25) / 1e6, "runs": self.runs, "error": None}

    def _at_full_pace(self, pace: Pace) -> list[float]:
        shortest_ns = min((look_ns for _, look_ns in self.passes), default=0.0)
        return [
            median_ns
            for median_ns, look_ns in self.passes
            if pace.slowdown(look_ns, shortest_ns) <= SLOWED_ABOVE
        ]


def measure_layers(
    runtime: runtimes.Runtime,
    paths: Sequence[Path],
    threads: int,
    protocol: MeasuringProtocol,
    pace: Pace,
    tell: Callable[[dict[str, Any]], None],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Time all models; yields (index, timing) as batches are done.

    Before a model is opened, its index is told ({"opening": index}), so that one that kills the process can
    be named by whoever started it.
    """
    gc.disable()
    first = 0
    while first < len(paths):
        batch = _open_batch(runtime, paths, first, threads, tell)
        begin_s = now_s()
        for done_passes in range(PASSES):
            for visited in batch:
                visited.visit(protocol, pace)
            done = first + len(batch) * (done_passes + 1) // PASSES
            tell({"phase": "layers", "done": done, "of": len(paths)})
        first += len(batch)
        _visit_again(batch, protocol, pace, max(LEAST_WAIT_S, now_s() - begin_s))
        for visited in batch:
            visited.call = None
            yield visited.index, visited.timing(pace)


def _visit_again(batch: Sequence[Visited], protocol: MeasuringProtocol, pace: Pace, longest_s: float) -> None:
    """Make more passes over the models that were slowed too often; takes not much more than `longest_s`."""
    end_s = now_s() + longest_s
    while slowed := [visited for visited in batch if visited.slowed(pace)]:
        for visited in slowed:
            if now_s() >= end_s:
                return
            pace.wait(end_s - now_s())
            visited.visit(protocol, pace)


def _open_batch(
    runtime: runtimes.Runtime,
    paths: Sequence[Path],
    first: int,
    threads: int,
    tell: Callable[[dict[str, Any]], None],
) -> list[Visited]:
    """Open models from `first` on until they take a quarter of the memory that was available, or many files.

    LiteRT keeps the file of every model open, and a worker may open 256 in all.
    """
    memory = MemorySensor()
    began_with = memory.process_bytes() or 0
    allowance = (memory.available_bytes() or 0) * _MEMORY_SHARE
    batch: list[Visited] = []
    for index in range(first, len(paths)):
        if batch and (memory.process_bytes() or 0) - began_with > allowance:
            break
        if len(batch) == _MOST_OPEN:
            break
        tell({"opening": index})
        batch.append(_open(runtime, paths[index], index, threads))
    return batch


def _open(runtime: runtimes.Runtime, path: Path, index: int, threads: int) -> Visited:
    try:
        session = runtimes.load(runtime, path, threads)
        call = session.prepare(prebuilt(session.inputs))
        call()
    except RequestError as error:
        return Visited(index, None, error.message)
    except Exception as error:  # noqa: BLE001 - a runtime may raise anything; the other models go on
        return Visited(index, None, runtimes.refused(error).message)
    return Visited(index, call, None)


def _warm(call: Call, longest_s: float) -> None:
    """Bring the model back into the caches: one run, then up to three and a millisecond if time allows."""
    begin_s = now_s()
    runs = 0
    while True:
        call()
        runs += 1
        spent_s = now_s() - begin_s
        if spent_s >= longest_s or (runs >= _WARM_RUNS and spent_s >= _WARM_S):
            return
