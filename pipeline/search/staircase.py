"""Which widths are worth choosing: those at the right edges of the device's own stairs.

A layer's time is a staircase in its width, since kernels work in tiles of channels: all widths on one stair cost the
same, so only the widest of them, its right edge, is worth choosing. Where the edges are depends on the device, its
runtime and all layers that share the width; so it is asked:

    scan      each group alone at about eight widths, its neighbours whole
    steps     where two neighbours differ by more than noise: just above the narrower one, and half-way
    edges     where most of that difference lies within one half: three widths in between

Ask/tell: `ask` says which shapes to time next, `tell` takes the answers; nothing here knows of devices or files. What
it asks depends on what it was told and on nothing else, so recorded answers lead to the same widths again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil, hypot, prod
from typing import TYPE_CHECKING

from pipeline.search.right_edges import WORTH, Point, right_edges, selections, thinned
from pipeline.search.shapes import (
    EMPTY,
    LayerShape,
    candidate_widths,
    joins,
    shape_at,
    sized,
    table_shapes,
    width_grid,
)

if TYPE_CHECKING:
    from pipeline.graph.groups import ComputeLayer, DependencyGraph

DIVISIONS = (8, 6, 5, 4, 3)  # widths scanned of a group: fewer where a model has many different layers
MOST_SCANNED = 320  # shapes
MOST_REFINED = 120  # shapes of each later round
MOST_TABLE = 400  # shapes that are timed for the pairs of chosen widths
MOST_WIDTHS, LEAST_WIDTHS = 10, 4  # of a group, 0 not counted

SHARP = 0.6  # of a difference within one part of its interval: there is an edge in that part
TYPICAL_NOISE = 0.005


@dataclass(frozen=True)
class Stairs:
    """What was learnt of one group: why its widths are these.

    Attributes:
        points: (width, ms): time of all layers that have the group on either side, each without the empty call,
            neighbours whole.
        widths: The chosen ones, ascending, 0 not counted.
        merged: Right edges that were left out, since they are close to another or there were too many.
        noise_ms: One standard deviation of such a sum.
        even: No stairs were found, or noise hides them: the widths are evenly spaced.
    """

    points: tuple[tuple[int, float], ...]
    widths: tuple[int, ...]
    merged: tuple[int, ...] = ()
    noise_ms: float = 0.0
    even: bool = False


class Staircase:
    """Finds candidate widths for each group of a graph in at most three rounds of questions."""

    def __init__(self, graph: DependencyGraph) -> None:
        self.graph = graph
        self.times: dict[LayerShape, float] = {}
        self._noise: dict[LayerShape, float] = {}
        scans = (self._scan(divisions) for divisions in DIVISIONS)
        self._groups = next(
            (scan for scan in scans if _size(scan) <= MOST_SCANNED), self._scan(DIVISIONS[-1])
        )
        self._rounds: list[tuple[str, Callable[[_Group], Iterable[tuple[float, int]]]]] = [
            ("scan", _Group.scanned),
            ("steps", _Group.steps),
            ("edges", _Group.edges),
        ]

    def _scan(self, divisions: int) -> list[_Group]:
        return [_Group(self, name, divisions) for name in self.graph.choosable]

    @property
    def round(self) -> str:
        """What the shapes that `ask` returned are for: "scan", "steps" or "edges"."""
        return self._rounds[0][0]

    def ask(self) -> tuple[LayerShape, ...]:
        """Return the shapes to time next, each once and none that was timed before; empty when all is known."""
        while self._rounds:
            shapes = self._wanted(*self._rounds[0])
            if shapes:
                return shapes
            self._rounds.pop(0)
        return ()

    def tell(self, times: Mapping[LayerShape, float], noise: float) -> None:
        """Take the times (ms) of the shapes that were asked for last, and their relative standard deviation."""
        self.times |= times
        self._noise |= dict.fromkeys(times, noise)
        self._rounds.pop(0)

    def _wanted(
        self, name: str, questions: Callable[[_Group], Iterable[tuple[float, int]]]
    ) -> tuple[LayerShape, ...]:
        """Return the shapes of all questions, those about the largest differences first, up to the limit."""
        asked = sorted(
            (-weight, number, width)
            for number, group in enumerate(self._groups)
            for weight, width in questions(group)
        )
        shapes = dict.fromkeys([] if self.times else [EMPTY])
        for _, number, width in asked:
            new = [shape for shape in self._groups[number].shapes(width) if shape not in self.times]
            if name != "scan" and len({*shapes, *new}) > MOST_REFINED:
                break
            shapes |= dict.fromkeys(new)
            self._groups[number].asked.add(width)
        return tuple(shapes)

    def stairs(self, most: int = MOST_WIDTHS, *, even_too: bool = False) -> dict[str, Stairs]:
        """Return what is known of each group, with at most `most` widths each.

        Args:
            most: of each group.
            even_too: add evenly spaced widths, for budgets that have no stairs (memory, file size).
        """
        return {group.name: group.stairs(most, even_too=even_too) for group in self._groups}

    def widths(self, stairs: Mapping[str, Stairs]) -> dict[str, tuple[int, ...]]:
        """Return each group's candidate widths: those of `stairs`, 0 where a block can go, or its only one."""
        widths = candidate_widths(self.graph)
        for name, found in stairs.items():
            if name in widths:
                widths[name] = (*(each for each in widths[name] if each == 0), *found.widths)
        return widths

    def settled(self, *, even_too: bool = False) -> dict[str, Stairs]:
        """Return the stairs with as many widths as can be timed in pairs with a bounded number of shapes."""
        for most in range(MOST_WIDTHS, LEAST_WIDTHS, -1):
            stairs = self.stairs(most, even_too=even_too)
            if len(self.untimed(self.widths(stairs))) <= MOST_TABLE:
                return stairs
        return self.stairs(LEAST_WIDTHS, even_too=even_too)

    def untimed(self, widths: Mapping[str, tuple[int, ...]]) -> tuple[LayerShape, ...]:
        """Return the shapes that a table for these widths lacks."""
        needed = (EMPTY, *table_shapes(self.graph, widths))
        return tuple(shape for shape in needed if shape not in self.times)

    def noise_of(self, shapes: Mapping[LayerShape, int]) -> float:
        """Return one standard deviation (ms) of the sum of these shapes' times."""
        return hypot(*(count * self.times[each] * self._noise[each] for each, count in shapes.items()))

    def sum_of(self, shapes: Mapping[LayerShape, int]) -> float:
        """Return the sum (ms) of these shapes' times, each without the empty call."""
        empty = self.times.get(EMPTY, 0.0)
        return sum(count * max(self.times[each] - empty, 0.0) for each, count in shapes.items())


class _Group:
    """One group of the graph: its layers, and what is known of its widths."""

    def __init__(self, search: Staircase, name: str, divisions: int) -> None:
        self.name = name
        self.search = search
        self.full = search.graph.group(name).width
        self.grid = width_grid(self.full, divisions)
        self.asked: set[int] = set()
        self._points: list[Point] = []
        self._whole = search.graph.widths()

    @cached_property
    def layers(self) -> list[ComputeLayer]:
        """The layers whose time steps with this width: behind a concatenation it is the sum that steps."""
        return [
            layer
            for layer in self.search.graph.layers
            if layer.out_group == self.name or (self.name in layer.in_groups and not joins(layer))
        ]

    def shapes(self, width: int) -> Counter[LayerShape]:
        """Return the shapes of this group's layers when it alone is narrowed, and how often each occurs."""
        kept = {**self._whole, self.name: width}
        return Counter(
            sized(layer, layer.in_width, width) if joins(layer) else shape_at(layer, kept)
            for layer in self.layers
        )

    def scanned(self) -> list[tuple[float, int]]:
        return [(0.0, width) for width in self.grid]

    def steps(self) -> list[tuple[float, int]]:
        """Ask just above the narrower of two neighbours that differ, where tiles most often end, and half-way."""
        return [
            (rise, width)
            for low, high, rise in self._differences()
            for width in {low + 1, (low + high) // 2} - {low}
        ]

    def edges(self) -> list[tuple[float, int]]:
        """Ask within the part of an interval in which most of its difference lies; a slope has no such part."""
        lower = self._lower
        questions = []
        for low, high, rise in self._differences():
            inside = [width for width in lower if low <= width <= high]
            for left, right in pairwise(inside):
                if lower[right] - lower[left] >= SHARP * rise:
                    quarters = {left + (right - left) * part // 4 for part in (1, 2, 3)}
                    questions += [(rise, width) for width in sorted(quarters - {left})]
        return questions

    def _only_probes(self) -> set[int]:
        """Return the widths just above one of the scan that turned out to be no edge themselves."""
        lower = self._lower
        above = dict(pairwise(lower))
        return {
            low + 1
            for low, high, rise in self._differences()
            if low + 1 in lower and low + 1 < high and lower[above[low + 1]] - lower[low + 1] < SHARP * rise
        }

    def _differences(self) -> list[tuple[int, int, float]]:
        """Return the neighbours of the scan that differ: (narrower, wider, ms between them)."""
        points = {point.width: point for point in self.points}
        lower = self._lower
        found = []
        for low, high in pairwise(self.grid):
            rise = lower[high] - lower[low]
            if rise > WORTH * points[self.full].ms and points[low].clearly_below(points[high]):
                found.append((low, high, rise))
        return found

    @property
    def points(self) -> list[Point]:
        """What is known of the widths that were asked for, ascending."""
        if len(self._points) < len(self.asked):
            known = ((width, self.shapes(width)) for width in sorted(self.asked))
            self._points = [
                Point(width, self.search.sum_of(shapes), self.search.noise_of(shapes))
                for width, shapes in known
            ]
        return self._points

    @property
    def _lower(self) -> dict[int, float]:
        """Width → the least time of this and all wider ones: a width that costs more is never worth choosing."""
        lowest, lower = float("inf"), {}
        for point in reversed(self.points):
            lowest = min(lowest, point.ms)
            lower[point.width] = lowest
        return dict(sorted(lower.items()))

    def stairs(self, most: int, *, even_too: bool) -> Stairs:
        points = self.points
        even = thinned(width_grid(self.full), most)
        if not self.layers or not points:
            return Stairs((), even, even=True)
        measured = tuple((point.width, point.ms) for point in points)
        noise = points[-1].noise_ms
        probes = self._only_probes()
        edges = right_edges([point for point in points if point.width not in probes])
        if len(edges) == 1:
            return Stairs(measured, even, noise_ms=noise, even=True)
        widths = tuple(point.width for point in selections(edges, most)[-1])
        if even_too:
            widths = thinned(sorted({*widths, *even}), most)
        merged = tuple(point.width for point in edges if point.width not in widths)
        return Stairs(measured, widths, merged, noise)


def expected_shapes(graph: DependencyGraph) -> int:
    """Return about how many shapes a table takes: as many as on a made-up device with tiles of eight by four."""
    search = Staircase(graph)
    while shapes := search.ask():
        search.tell({shape: _made_up_ms(shape) for shape in shapes}, TYPICAL_NOISE)
    return len(search.times) + len(search.untimed(search.widths(search.settled())))


def _made_up_ms(shape: LayerShape) -> float:
    if shape == EMPTY:
        return 0.0
    tiled = ceil(shape.out_width / 8) * ceil(shape.in_width / shape.groups / 4)
    return float(tiled * prod(shape.kernel) * prod(shape.output_hw))


def _size(groups: Iterable[_Group]) -> int:
    return len({shape for group in groups for width in group.grid for shape in group.shapes(width)})
