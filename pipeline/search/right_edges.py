"""From the times of some widths to those worth choosing: the right edges of the stairs, the least of them left out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import hypot

SIGMAS = 2.5  # a difference is one when it is so many times its own noise
WORTH = 0.01  # of a group's time: smaller steps are none
LENIENT = 0.04  # of a group's time: larger steps are worth having as a choice, even if they may be noise
MINOR = 0.02  # of the full width, or of its time: edges that differ by less are merged
TILES = (
    (8, 1.5),
    (4, 1.3),
    (2, 1.15),
    (1, 1.0),
)  # how much better kernels like multiples of so many channels


@dataclass(frozen=True)
class Point:
    """A width, the time of all layers that depend on it, and the standard deviation of that."""

    width: int
    ms: float
    noise_ms: float

    def clearly_below(self, other: Point) -> bool:
        """Tell whether this costs less, beyond noise."""
        return other.ms - self.ms > SIGMAS * hypot(self.noise_ms, other.noise_ms)


def right_edges(points: list[Point]) -> list[Point]:
    """Return the points that cost less than every wider one, ascending; the widest alone if noise hides all."""
    full = points[-1]
    if not min(points, key=lambda point: point.ms).clearly_below(full):
        return [full]
    edges = [full]
    for point in reversed(points[:-1]):
        step = edges[0].ms - point.ms
        if step > WORTH * full.ms and (step > LENIENT * full.ms or point.clearly_below(edges[0])):
            edges.insert(0, point)
    return edges


def selections(edges: Sequence[Point], most: int) -> list[tuple[Point, ...]]:
    """Return the best one, two, … up to `most` of these ascending edges, the widest among them.

    The best are those that stand in best for the others; more than it takes to stand in for all of them within
    `MINOR` are not returned.
    """
    last = len(edges) - 1
    best: dict[int, tuple[float, tuple[int, ...]]] = {
        right: (_cost(edges, None, right), (right,)) for right in range(len(edges))
    }
    found = [best[last]]
    while len(found) < most and found[-1][0] > 0:
        best = {
            right: min((best[left][0] + _cost(edges, left, right), (*best[left][1], right)) for left in lefts)
            for right in range(len(edges))
            if (lefts := [left for left in best if left < right])
        }
        found.append(best[last])
    return [tuple(edges[position] for position in kept) for _, kept in found]


def _cost(edges: Sequence[Point], left: int | None, right: int) -> float:
    """Return what is lost if of the edges up to `right` those after `left` are left out: the squares of all losses."""
    between = range(0 if left is None else left + 1, right)
    return sum(_loss(edges, left, position, right) ** 2 for position in between)


def _loss(edges: Sequence[Point], left: int | None, position: int, right: int) -> float:
    """Return what an edge loses by its best stand-in: units at the narrower one, or time at the wider one.

    What is minor counts as nothing. Of two edges that are nearly alike, the one that tiles like better is worth more.
    """
    full, this = edges[-1], edges[position]
    time = (edges[right].ms - this.ms) / full.ms
    units = time if left is None else (this.width - edges[left].width) / full.width
    loss = min(time, units) * next(worth for tile, worth in TILES if this.width % tile == 0)
    return loss if loss >= MINOR else 0.0


def thinned(widths: Iterable[int], most: int) -> tuple[int, ...]:
    """Return at most `most` of these ascending widths, the outermost among them; those close to another go first."""
    kept = list(widths)
    while len(kept) > most:
        gaps = [right - left for left, right in zip(kept, kept[2:], strict=False)]
        del kept[1 + gaps.index(min(gaps))]
    return tuple(kept)
