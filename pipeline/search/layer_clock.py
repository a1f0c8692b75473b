"""How long small model files take: from the cache what is known there, from the device the rest.

A machine's speed drifts between two batches. So a batch that adds to known times also holds some files that have
one already, and what is new is scaled to the level of those; where the level of the cache turns out to be another
one, nothing of it is used. Within a batch some files are timed twice: how far the two lie apart is its noise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from pipeline.measurement import LayerTiming
from pipeline.search.table_cache import CachedTiming, TableCache, now

MOST_FILES = (
    200  # in one worker: some runtimes keep every model's file open, and a process may open about 250
)
REPEATS = 8  # of a batch, timed twice
ANCHORS, LEAST_ANCHORS = 6, 3  # known files that are timed once more with a batch
LEVEL = 0.05  # a cache whose times are off by more is of another level
NO_DRIFT = 0.01
LEAST_NOISE = 0.003
_MEDIAN_TO_SIGMA = 0.954  # of |a - b| for two equal normal variables

Measure = Callable[[Sequence[Path]], Sequence[LayerTiming]]


@dataclass(frozen=True)
class LayerFile:
    """A model file to time: its digest, and the layer's shape in words."""

    path: Path
    sha256: str
    shape: str


def repeated(count: int) -> list[int]:
    """Return which of `count` files are timed twice: some from begin to end, always the same ones."""
    apart = max(-(-count // REPEATS), 1)
    return list(range(apart // 2, count, apart))


def timing_noise(once: Sequence[LayerTiming], again: Sequence[LayerTiming]) -> float:
    """Return the relative standard deviation of one timing, from some that were made twice."""
    return _deviation((one.p50_ms, two.p50_ms) for one, two in zip(once, again, strict=True))


def _deviation(pairs: Iterable[tuple[float, float]]) -> float:
    apart = [abs(one - two) / min(one, two) for one, two in pairs if min(one, two) > 0]
    return max(median(apart) / _MEDIAN_TO_SIGMA if apart else 0.0, LEAST_NOISE)


class LayerClock:
    """Times files in batches; counts how many were `timed`, and how many were `known` from earlier runs.

    Args:
        cache: what earlier runs know; new times are added to it batch by batch.
        level: some files that this run has timed already, and their time (ms): what comes is scaled to their level.
    """

    def __init__(self, cache: TableCache, level: Mapping[LayerFile, float]) -> None:
        self.timed = 0
        self.known = 0
        self._cache = cache
        self._level = dict(level)

    def times(self, files: Sequence[LayerFile], measure: Measure) -> tuple[LayerTiming, ...]:
        """Return the timing of each file, then the second timing of the `repeated` ones.

        Args:
            files: no two with the same digest.
            measure: has the device time files, in one worker, and returns the timings in their order.

        Raises:
            StorageError: the cache cannot be read or written.
        """
        twice = {files[index].sha256 for index in repeated(len(files))}
        stored = self._cache.entries()
        usable = [file for file in files if _is_enough(stored.get(file.sha256), file.sha256 in twice)]
        doubted = not self._level  # what this run has recorded already sets the level, whatever comes
        self._level |= {file: stored[file.sha256].p50_ms for file in usable}
        answers = _Answers({file.sha256: stored[file.sha256] for file in usable})
        missing = [file for file in files if file not in usable]
        while missing:
            batch, missing = missing[:MOST_FILES], missing[MOST_FILES:]
            seen = self._time(batch, [file for file in batch if file.sha256 in twice], measure)
            if doubted and abs(seen.drift - 1) > LEVEL:
                missing, usable = [*missing, *usable], []
                self._level.clear()
            else:
                seen = seen.on_the_old_level()
            doubted = False
            answers.failed |= seen.failed
            self._keep(
                batch,
                {digest: _better(stored.get(digest), new) for digest, new in seen.entries.items()},
                answers,
            )
        self.known += len(usable)
        return answers.in_order(files, twice)

    def _time(self, batch: Sequence[LayerFile], second: Sequence[LayerFile], measure: Measure) -> _Batch:
        """Time a batch, some of it twice, and beside it some files of which the time is known."""
        anchors = self._anchors()
        answered = iter(measure([file.path for file in (*batch, *second, *anchors)]))
        firsts, agains, compared = (
            {file: next(answered) for file in part} for part in (batch, second, anchors)
        )
        self.timed += len(batch)
        ratios = [timing.p50_ms / self._level[file] for file, timing in compared.items() if timing.p50_ms > 0]
        drift = median(ratios) if ratios else 1.0
        repeats = [(firsts[file].p50_ms, timing.p50_ms) for file, timing in agains.items()]
        noise = _deviation([*repeats, *((ratio, drift) for ratio in ratios)])
        good = {file: timing for file, timing in firsts.items() if timing.error is None and timing.p50_ms > 0}
        failed = {file.sha256: timing for file, timing in firsts.items() if file not in good}
        entries = {}
        for file, timing in good.items():
            again_ms = agains[file].p50_ms if file in agains else 0.0
            entries[file.sha256] = CachedTiming(
                file.shape, timing.p50_ms, timing.runs, noise, now(), again_ms or None
            )
        return _Batch(entries, failed, drift)

    def _anchors(self) -> list[LayerFile]:
        """Return the slowest of the known files: little of their time is the call; none if there are too few."""
        slowest = sorted(self._level, key=lambda file: -self._level[file])[:ANCHORS]
        return slowest if len(slowest) >= LEAST_ANCHORS else []

    def _keep(self, batch: Sequence[LayerFile], entries: dict[str, CachedTiming], answers: _Answers) -> None:
        self._cache.add(entries)
        self._level |= {file: entries[file.sha256].p50_ms for file in batch if file.sha256 in entries}
        answers.entries |= entries


@dataclass(frozen=True)
class _Batch:
    """What one call of the device gave; `drift` is how many times slower known files were than they had been."""

    entries: dict[str, CachedTiming]
    failed: dict[str, LayerTiming]
    drift: float

    def on_the_old_level(self) -> _Batch:
        if abs(self.drift - 1) <= NO_DRIFT:
            return self
        return replace(
            self, entries={digest: entry.scaled(1 / self.drift) for digest, entry in self.entries.items()}
        )


@dataclass
class _Answers:
    """Timings by digest, as they come in."""

    entries: dict[str, CachedTiming]
    failed: dict[str, LayerTiming] = field(default_factory=dict)

    def in_order(self, files: Sequence[LayerFile], twice: Collection[str]) -> tuple[LayerTiming, ...]:
        firsts = [self._of(file.sha256) for file in files]
        return (*firsts, *(self._of(file.sha256, again=True) for file in files if file.sha256 in twice))

    def _of(self, digest: str, *, again: bool = False) -> LayerTiming:
        if digest in self.failed:
            return self.failed[digest]
        entry = self.entries[digest]
        ms = entry.again_ms if again else None
        return LayerTiming(digest, ms or entry.p50_ms, entry.runs)


def _is_enough(entry: CachedTiming | None, needed_twice: bool) -> bool:
    return entry is not None and entry.settled and (entry.again_ms is not None or not needed_twice)


def _better(old: CachedTiming | None, new: CachedTiming) -> CachedTiming:
    """Return the less noisy of two timings, with the number of tries so far."""
    if old is None or old.settled:
        return new
    quieter = min(new, old, key=lambda entry: entry.noise)
    return replace(quieter, again_ms=new.again_ms, tries=old.tries + 1)
