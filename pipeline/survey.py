"""What must be known before widths are chosen: dependencies, each unit's importance, the device's latency table."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.candidate import Built
from pipeline.convert import converter
from pipeline.device.values import BoardStatus
from pipeline.errors import RunError
from pipeline.files import sha256
from pipeline.graph import DependencyGraph, trace
from pipeline.measurement import LayerTiming, TimedLayers
from pipeline.profile import DeviceProfile
from pipeline.prune import score
from pipeline.search import (
    ANCHORS,
    EMPTY,
    LatencyTable,
    LayerClock,
    LayerFile,
    LayerShape,
    Near,
    PairShape,
    Scores,
    Shape,
    Staircase,
    Stairs,
    TableCache,
    Units,
    build_layer_model,
    choose_units,
    front_shapes,
    kept_indices,
    loss_curves,
    model_peak_bytes,
    pair_shapes,
    repeated,
    searchable,
    shares_kept,
    table_shapes,
    times_of,
    timing_noise,
    weight_bytes,
)
from pipeline.watch import Advance
from pipeline.workshop import Workshop

CRITERIA = ("taylor", "l1", "l2")
SCORED_AT_ONCE = 8  # examples a gradient; against 128: docs/search.md, "Which units go"
FIXED_SHOWN = 3
TABLE_STEP = "latency table"
WITHOUT_STAIRS = {"model_peak", "file"}  # every unit counts there, also between two edges
PRECISION = (
    "fp32"  # of the arithmetic; weights stored in half precision take a layer no longer (docs/converting.md)
)
BYTES_PER_WEIGHT = 4  # in memory
FIXED_GOVERNORS = {"performance", "powersave", "userspace"}


@dataclass(frozen=True)
class Study:
    """What does not depend on how a model is run: its dependencies, and what each unit of a group is worth."""

    graph: DependencyGraph
    importance: Mapping[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Survey:
    """The ground on which widths are allocated.

    `importance` holds one value a unit for each group: it decides which units go. `widths` are those that could be
    chosen, ascending; `rises` says how much the loss grows at each of them: it decides how many units go. If they were
    taken around a plan, `near` holds the first and last position at which they hold. `stairs` says how the device's
    times led to these widths; `bytes_per_weight` is that of the model's file.
    """

    graph: DependencyGraph
    importance: Mapping[str, npt.NDArray[np.float64]]
    widths: Mapping[str, tuple[int, ...]]
    rises: Mapping[str, Sequence[float]]
    table: LatencyTable
    stairs: Mapping[str, Stairs] = field(default_factory=dict)
    bytes_per_weight: int = 4
    near: Near = field(default_factory=dict)

    @cached_property
    def kept(self) -> Mapping[str, npt.NDArray[np.float64]]:
        """The share of all loss that can be avoided that each width avoids."""
        return shares_kept(self.rises)

    def full(self) -> dict[str, int]:
        """Return the widths of the model as it is."""
        return {group.name: group.width for group in self.graph.groups}

    def table_ms(self, widths: Mapping[str, int]) -> float:
        """Return the sum of the device's layer timings, in milliseconds."""
        return self.table.predict(self.graph, {**self.full(), **widths})

    def file_bytes(self, widths: Mapping[str, int]) -> float:
        """Return the bytes of all weights in the model's file."""
        return self.file_share * weight_bytes(self.graph, {**self.full(), **widths})

    @property
    def file_share(self) -> float:
        """The share of the weights' bytes in memory that they take in the model's file."""
        return self.bytes_per_weight / BYTES_PER_WEIGHT

    def peak_bytes(self, widths: Mapping[str, int]) -> float:
        """Return the predicted peak: weights and the largest set of activations alive at once."""
        return model_peak_bytes(self.graph, {**self.full(), **widths})


def study(shop: Workshop, start: Built) -> Study:
    """Trace a model and score its units."""
    graph = searchable(trace(shop.model(start), shop.example()))
    shop.watch.say(f"{len(graph.choosable)} groups of channels can shrink, {_droppable(graph)} blocks can go")
    for fixed in graph.frozen[:FIXED_SHOWN]:
        shop.watch.say(f"left whole: {fixed.name}: {fixed.reason}")
    if len(graph.frozen) > FIXED_SHOWN:
        shop.watch.say(f"… and {len(graph.frozen) - FIXED_SHOWN} more, named in the report")
    units = shop.step("importance", Units, lambda advance: _units(shop, graph, start, advance))
    counts = Counter(units.criteria.values()).most_common()
    if counts:
        ranked = ", ".join(f"by {criterion} in {count}" for criterion, count in counts)
        shop.watch.say(f"units are ranked {ranked} of {len(units.criteria)} groups")
    return Study(graph, {name: np.asarray(values) for name, values in units.importance.items()})


def survey(shop: Workshop, known: Study, start: Built) -> Survey:
    """Let the device time the layers at the widths that could be chosen, and measure what each costs in loss."""
    stairs, widths, table = make_table(shop, known.graph)
    rises = shop.step(
        "sensitivity",
        dict[str, list[float]],
        lambda advance: loss_curves(
            widths,
            lambda kept: loss_at(shop, known, start, kept),
            lambda done, of: advance(done=done, of=of),
        ),
    )
    stored = BYTES_PER_WEIGHT // 2 if shop.halved else BYTES_PER_WEIGHT
    return Survey(known.graph, known.importance, widths, rises, table, stairs, stored)


def loss_at(shop: Workshop, known: Study | Survey, start: Built, widths: Mapping[str, int]) -> float:
    """Return the loss on the calibration batches of a model cut to `widths`; nothing is converted or measured."""
    return shop.calibration_loss(start, known.graph.plan(kept_indices(known.importance, widths)))


def make_table(
    shop: Workshop, graph: DependencyGraph
) -> tuple[dict[str, Stairs], dict[str, tuple[int, ...]], LatencyTable]:
    """Let the device show its stairs, choose the candidate widths by them, and time all pairs of these."""
    search, bench = Staircase(graph), Bench(shop)
    while shapes := search.ask():
        search.tell(*bench.times(search.round, shapes))
    stairs = search.settled(even_too=any(each.resource in WITHOUT_STAIRS for each in shop.profile.budgets))
    widths = search.widths(stairs)
    times = dict(search.times)
    if untimed := search.untimed(widths):
        times |= bench.times("pairs", untimed)[0]
    pairs = pair_shapes(graph, widths)
    together = bench.times("neighbours", pairs)[0] if pairs else {}
    needed = (EMPTY, *table_shapes(graph, widths))
    alone = {shape: times[shape] for shape in needed}
    table = LatencyTable.from_times(alone, together)
    if front := front_shapes(graph, widths, table.saves_much):
        table = LatencyTable.from_times(alone, {**together, **bench.times("in front", front)[0]})
    bench.close()
    return stairs, widths, table


def _droppable(graph: DependencyGraph) -> int:
    return sum(block.group is not None for block in graph.blocks)


def _units(shop: Workshop, graph: DependencyGraph, start: Built, advance: Advance) -> Units:
    """Score all units by each criterion, and choose each group's by the loss on the calibration batches."""
    scores = {
        criterion: {
            name: values.numpy()
            for name, values in score(
                shop.model(start), graph, criterion, shop.calibration_batches(SCORED_AT_ONCE)
            ).items()
        }
        for criterion in CRITERIA
    }
    halves = {group.name: max(1, group.width // 2) for group in graph.groups if group.name in graph.choosable}

    def loss(importance: Scores) -> float:
        return loss_at(shop, Study(graph, importance), start, halves)

    return choose_units(scores, halves, loss, lambda done, of: advance(done=done, of=of))


class Bench:
    """Times layer shapes, a recorded step for each batch: from the run replayed, the cache, or the device."""

    def __init__(self, shop: Workshop) -> None:
        self._shop = shop
        self._folder = shop.path("table")
        self._ms: dict[LayerShape | PairShape, float] = {}
        self._clock: LayerClock | None = None

    def times(self, stage: str, shapes: Sequence[Shape]) -> tuple[dict[Shape, float], float]:
        """Return each shape's time (ms), and the relative deviation of such a time.

        Raises:
            RunError: the step was recorded for other layers.
        """
        step = f"{TABLE_STEP}: {stage}"
        found = self._shop.step(step, TimedLayers, partial(self._time, step, shapes))
        if found.layers != tuple(shape.key for shape in shapes):
            raise RunError(
                f"step {step!r} of run {self._shop.run.id} timed other layers than this version asks for",
                hint="start a new deploy; what was timed is known to it",
            )
        timings = found.timings
        once, twice = timings[: len(shapes)], timings[len(shapes) :]
        times = times_of(shapes, once)
        self._ms.update(times.items())
        return times, timing_noise([once[index] for index in repeated(len(shapes))], twice)

    def close(self) -> None:
        """Say where the times came from, if any was needed, and remove the files."""
        if self._clock is not None:
            known = f", {self._clock.known} known from earlier runs" if self._clock.known else ""
            self._shop.watch.say(f"{self._clock.timed} layers timed on the device{known}")
        shutil.rmtree(self._folder, ignore_errors=True)

    def _time(self, step: str, shapes: Sequence[LayerShape | PairShape], advance: Advance) -> TimedLayers:
        """Build each layer as a small file, and have those timed that are not known yet."""
        files = self._build(shapes)

        def measure(paths: Sequence[Path]) -> tuple[LayerTiming, ...]:
            return self._shop.time_layers(step, paths, advance)

        if self._shop.replay is not None:
            timings = measure(
                [each.path for each in (*files, *(files[index] for index in repeated(len(files))))]
            )
        else:
            self._clock = self._clock or self._new_clock()
            timings = self._clock.times(files, measure)
        return TimedLayers(tuple(shape.key for shape in shapes), timings)

    def _new_clock(self) -> LayerClock:
        """Return a clock on the level of the times that this run has recorded."""
        shop = self._shop
        facts = _facts(shop.device.status(), shop.profile)
        slowest = sorted(self._ms, key=lambda shape: -self._ms[shape])[:ANCHORS]
        level = {file: self._ms[shape] for file, shape in zip(self._build(slowest), slowest, strict=True)}
        return LayerClock(TableCache(shop.run.store.folder / "tables", facts, shop.watch.say), level)

    def _build(self, shapes: Sequence[LayerShape | PairShape]) -> list[LayerFile]:
        runtime = self._shop.profile.runtime
        self._folder.mkdir(exist_ok=True)
        files = []
        for shape in shapes:
            path = self._folder / f"{shape.key.replace(' ', '_')}{converter(runtime).suffix}"
            build_layer_model(shape, runtime, path)
            files.append(LayerFile(path, sha256(path), shape.key))
        return files


def _facts(status: BoardStatus, profile: DeviceProfile) -> dict[str, str]:
    """Return all that a layer's time depends on beside the layer."""
    board, conditions, protocol = status.board, status.conditions, profile.measuring
    runtime = status.runtime(profile.runtime)
    chosen = conditions.governor in FIXED_GOVERNORS and board.arch != "x86_64"  # else it changes all the time
    frequency = round(conditions.frequency_mhz / 100) * 100 if chosen and conditions.frequency_mhz else None
    return {
        "board": board.model or "unknown",
        "soc": board.soc or "unknown",
        "machine": f"{board.arch}, {board.cores} cores",
        "runtime": f"{runtime.package} {runtime.version}" if runtime else profile.runtime,
        "threads": str(profile.threads),
        "precision": PRECISION,
        "governor": conditions.governor or "unknown",
        "frequency": f"{frequency} MHz" if frequency else "not fixed",
        "agent": f"{status.agent_version}, protocol {status.protocol}",
        "measuring": f"{protocol.layer_min_runs} runs, at most {protocol.layer_max_duration_s:g} s",
    }
