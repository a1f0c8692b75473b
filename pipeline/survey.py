"""What must be known before widths are chosen: dependencies, each unit's importance, the device's latency table."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from pipeline.candidate import Built, Candidate
from pipeline.convert import converter
from pipeline.graph import DependencyGraph, trace
from pipeline.measurement import LayerTiming
from pipeline.prune import score
from pipeline.search import (
    EMPTY,
    LatencyTable,
    LayerShape,
    build_layer_model,
    candidate_widths,
    kept_indices,
    loss_curves,
    model_peak_bytes,
    searchable,
    shares_kept,
    table_shapes,
    weight_bytes,
)
from pipeline.watch import Advance
from pipeline.workshop import Workshop

CRITERION = "taylor"
FIXED_SHOWN = 3
TABLE_STEP = "latency table"


@dataclass(frozen=True)
class Survey:
    """The ground on which widths are allocated.

    `importance` holds one value a unit for each group: it decides which units go. `widths` are those that could be
    chosen, ascending; `kept` says what each of them keeps of all that can be lost: it decides how many units go.
    """

    graph: DependencyGraph
    importance: Mapping[str, npt.NDArray[np.float64]]
    widths: Mapping[str, tuple[int, ...]]
    kept: Mapping[str, npt.NDArray[np.float64]]
    table: LatencyTable

    def full(self) -> dict[str, int]:
        """Return the widths of the model as it is."""
        return {group.name: group.width for group in self.graph.groups}

    def table_ms(self, widths: Mapping[str, int]) -> float:
        """Return the sum of the device's layer timings, in milliseconds."""
        return self.table.predict(self.graph, {**self.full(), **widths})

    def weight_bytes(self, widths: Mapping[str, int]) -> float:
        """Return the bytes of all weights."""
        return weight_bytes(self.graph, {**self.full(), **widths})

    def peak_bytes(self, widths: Mapping[str, int]) -> float:
        """Return the predicted peak: weights and the largest set of activations alive at once."""
        return model_peak_bytes(self.graph, {**self.full(), **widths})


def survey(shop: Workshop, baseline: Candidate) -> Survey:
    """Trace the model, score its units, and let the device time its layers at the widths that could be chosen."""
    graph = searchable(trace(shop.model(baseline.built), shop.example()))
    widths = candidate_widths(graph)
    shop.watch.say(f"{len(graph.choosable)} groups of channels can shrink, {_droppable(graph)} blocks can go")
    for fixed in graph.frozen[:FIXED_SHOWN]:
        shop.watch.say(f"left whole: {fixed.name}: {fixed.reason}")
    if len(graph.frozen) > FIXED_SHOWN:
        shop.watch.say(f"… and {len(graph.frozen) - FIXED_SHOWN} more, named in the report")
    scores = shop.step(
        "importance", dict[str, list[float]], lambda _: _importance(shop, graph, baseline.built)
    )
    importance = {name: np.asarray(values) for name, values in scores.items()}
    measure = partial(_loss_at, shop, graph, importance, baseline.built)
    curves = shop.step(
        "sensitivity",
        dict[str, list[float]],
        lambda advance: loss_curves(widths, measure, lambda done, of: advance(done=done, of=of)),
    )
    shapes = (EMPTY, *table_shapes(graph, widths))
    timings = shop.step(TABLE_STEP, tuple[LayerTiming, ...], partial(_time_layers, shop, shapes))
    return Survey(
        graph=graph,
        importance=importance,
        widths=widths,
        kept=shares_kept(curves),
        table=LatencyTable.from_timings(shapes, timings),
    )


def _droppable(graph: DependencyGraph) -> int:
    return sum(block.group is not None for block in graph.blocks)


def _importance(shop: Workshop, graph: DependencyGraph, baseline: Built) -> dict[str, list[float]]:
    scores = score(shop.model(baseline), graph, CRITERION, shop.calibration_batches())
    return {name: [float(value) for value in values] for name, values in scores.items()}


def _loss_at(
    shop: Workshop,
    graph: DependencyGraph,
    importance: Mapping[str, npt.NDArray[np.float64]],
    baseline: Built,
    widths: Mapping[str, int],
) -> float:
    """Return the loss on the calibration batches of the model cut to `widths`; nothing is converted or measured."""
    plan = graph.plan(kept_indices(importance, widths))
    return shop.calibration_loss(shop.slimmed(baseline, plan))


def _time_layers(shop: Workshop, shapes: Sequence[LayerShape], advance: Advance) -> tuple[LayerTiming, ...]:
    """Build each distinct layer as a small file, push them all, and have the agent time them in one worker."""
    runtime, folder = shop.profile.runtime, shop.path("table")
    folder.mkdir(exist_ok=True)
    files = []
    for number, shape in enumerate(shapes):
        files.append(folder / f"{number:04d}{converter(runtime).suffix}")
        build_layer_model(shape, runtime, files[-1])
        advance(done=number + 1, of=len(shapes), note="building")
    timings = shop.time_layers(TABLE_STEP, files, advance)
    shutil.rmtree(folder)
    return timings
