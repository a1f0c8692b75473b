"""The device's own timings of single layers, and what they predict for a whole model.

The sum of layer times, each without the cost of an empty call, plus one empty call, was within 1 % of the
whole model's latency on ARM and within 6 % on x86 (`layer_models.py` says how that was measured).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import DeviceError, InputError
from pipeline.measurement import LayerTiming
from pipeline.search.company import Link, links
from pipeline.search.shapes import EMPTY, GONE, LayerShape, PairShape, Shape, shape_at

if TYPE_CHECKING:
    from pipeline.graph.groups import DependencyGraph

WORTH = 0.05  # of two layers' time: where they save less, it is not asked what the width in front does


@dataclass(frozen=True)
class TimedShape:
    """One entry of a table: a shape and its median time in milliseconds, the empty call included."""

    shape: LayerShape
    p50_ms: float


@dataclass(frozen=True)
class Saving:
    """By how many milliseconds two layers together differ from each alone; below 0 where they save time."""

    pair: PairShape
    ms: float


@dataclass(frozen=True)
class LatencyTable:
    """Layer timings of one device, runtime and thread count; plain data, JSON by pydantic's `TypeAdapter`.

    `empty_ms` is the time of a call that computes nothing; `savings` what neighbours take less than apart.
    """

    entries: tuple[TimedShape, ...]
    empty_ms: float
    savings: tuple[Saving, ...] = ()

    @classmethod
    def from_times(
        cls, times: Mapping[LayerShape, float], together: Mapping[PairShape, float] | None = None
    ) -> LatencyTable:
        """Make a table of times in milliseconds, `EMPTY` among them, and of those of pairs of layers.

        Raises:
            ValueError: `EMPTY` is missing.
        """
        if EMPTY not in times:
            raise ValueError("a latency table needs the timing of EMPTY")
        entries = (TimedShape(shape, ms) for shape, ms in times.items() if shape != EMPTY)
        savings = (
            Saving(pair, ms + times[EMPTY] - times[pair.first] - times[pair.second])
            for pair, ms in (together or {}).items()
            if pair.first in times and pair.second in times
        )
        return cls(tuple(entries), times[EMPTY], tuple(savings))

    def lookup(self, shape: LayerShape) -> float:
        """Return the time of one layer in milliseconds, without the empty call, never negative.

        An input width between two that were timed lies on the straight line between them. A layer that is
        `GONE` takes no time.

        Raises:
            InputError: no such layer was timed.
        """
        if shape == GONE:
            return 0.0
        exact = self._exact.get(shape)
        if exact is not None:
            return max(exact - self.empty_ms, 0.0)
        line = self._lines.get(_family(shape), [])
        if not line or not line[0][0] <= shape.in_width <= line[-1][0]:
            raise InputError(
                f"the latency table holds no layer like {shape.key}",
                hint="choose widths from those the table was made for, or make a new table",
            )
        points = np.array(line)
        return max(float(np.interp(shape.in_width, points[:, 0], points[:, 1])) - self.empty_ms, 0.0)

    def layer_ms(self, graph: DependencyGraph, widths: Mapping[str, int]) -> dict[str, float]:
        """Return each layer's own time in milliseconds at `widths` (units kept; missing groups are whole)."""
        kept = {**graph.widths(), **widths}
        return {layer.name: self.lookup(shape_at(layer, kept)) for layer in graph.layers}

    def saving(self, link: Link, whole: Mapping[str, int], kept: Mapping[str, int]) -> float:
        """Return by how many milliseconds a link's owner differs from alone at the widths `kept`.

        `whole` holds all groups' full widths. What was not timed saves nothing.
        """
        if link.owner.is_gone(kept):
            return 0.0
        between, entry = (None if name is None else kept[name] for name in (link.between, link.entry))
        ms = self._savings.get(link.pair_at(whole, between), 0.0) / 2
        pair, there = link.pair_at(whole), link.pair_at(whole, None, entry)
        if pair is None or there not in self._savings or not self.saves_much(pair):
            return ms
        return ms * min(max(self._savings[there] / self._savings[pair], 0.0), 1.0)

    def saves_much(self, pair: PairShape) -> bool:
        """Tell whether two layers together save a share of their time that is worth more questions."""
        alone = sum(self._exact.get(shape, 0.0) for shape in (pair.first, pair.second))
        return self._savings.get(pair, 0.0) < -WORTH * alone

    def savings_ms(self, graph: DependencyGraph, widths: Mapping[str, int]) -> list[tuple[LayerShape, float]]:
        """Return what each layer saves beside others at `widths`: its shape at full width, and milliseconds."""
        whole, kept = graph.widths(), {**graph.widths(), **widths}
        return [
            (shape_at(link.owner, whole), self.saving(link, whole, kept))
            for link in links(graph)
            if not link.owner.is_gone(kept)
        ]

    def predict(self, graph: DependencyGraph, widths: Mapping[str, int]) -> float:
        """Return the sum over all layers and what neighbours save, plus one empty call, in milliseconds."""
        saved = sum(ms for _, ms in self.savings_ms(graph, widths))
        return sum(self.layer_ms(graph, widths).values()) + saved + self.empty_ms

    @cached_property
    def _savings(self) -> dict[PairShape | None, float]:
        return {saving.pair: saving.ms for saving in self.savings}

    @cached_property
    def _exact(self) -> dict[LayerShape, float]:
        return {entry.shape: entry.p50_ms for entry in self.entries}

    @cached_property
    def _lines(self) -> dict[LayerShape, list[tuple[int, float]]]:
        lines: dict[LayerShape, list[tuple[int, float]]] = {}
        for entry in sorted(self.entries, key=lambda entry: entry.shape.in_width):
            lines.setdefault(_family(entry.shape), []).append((entry.shape.in_width, entry.p50_ms))
        return lines


def _family(shape: LayerShape) -> LayerShape:
    """Return what a shape has in common with those that differ in the input width only."""
    if shape.groups > 1 and shape.groups == shape.in_width:
        return replace(shape, in_width=0, groups=0, out_width=shape.out_width // shape.in_width)
    return replace(shape, in_width=0)


def times_of(shapes: Sequence[Shape], timings: Sequence[LayerTiming]) -> dict[Shape, float]:
    """Return the time of each shape in milliseconds, the empty call included.

    Raises:
        DeviceError: the device could not time one of the layers.
        ValueError: the two do not belong together.
    """
    timed = dict(zip(shapes, timings, strict=True))
    for shape, timing in timed.items():
        if timing.error is not None:
            raise DeviceError(
                f"the device could not time the layer {shape.key}: {timing.error}",
                hint="its runtime may be too old for this layer; update it",
            )
    return {shape: timing.p50_ms for shape, timing in timed.items()}
