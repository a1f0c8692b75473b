"""What a layer takes less, or more, beside others than alone.

A layer that is timed alone pays for its surroundings: onnxruntime on x86 turns its input into the blocked layout that
its convolutions want, and its output back, which it does once for a whole chain of them, additions included. So two
convolutions, the second of which takes what the first gives, are timed in one file too, at each width between them.
Half of what they take less than apart belongs to either. A layer behind an addition has several in front, one
before it several behind; each is timed with one of them, and its half goes with it when its block is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.search.shapes import GONE, LayerShape, PairShape, joins, shape_at

if TYPE_CHECKING:
    from pipeline.graph.groups import ComputeLayer, DependencyGraph


@dataclass(frozen=True)
class Link:
    """A convolution and one that it takes from or gives to; half of what the two save belongs to `owner`."""

    first: ComputeLayer
    second: ComputeLayer
    owner: ComputeLayer

    @property
    def between(self) -> str | None:
        """The group whose width lies between the two; None where that never changes."""
        return next(iter(self.second.in_groups), None)

    def pair_at(self, whole: Mapping[str, int], width: int | None) -> PairShape | None:
        """Return the two layers with `width` units between them, all else whole; None where they are gone."""
        name = self.between
        kept = whole if name is None or width is None else {**whole, name: width}
        first, second = (shape_at(layer, kept) for layer in (self.first, self.second))
        gone = GONE in (first, second) or (not width and name is not None)
        return None if gone else PairShape(first, second)

    def owned(self, pair: PairShape) -> LayerShape:
        """Return the owner's shape in a pair."""
        return pair.first if self.owner is self.first else pair.second


def links(graph: DependencyGraph) -> tuple[Link, ...]:
    """Return the links of each convolution: with the last that it takes from, with the first that takes from it."""
    layers = {layer.name: layer for layer in graph.layers}
    found: dict[tuple[str, bool], Link] = {}
    for second in graph.layers:
        for first in (layers[name] for name in second.takes):
            if _are_joined(first, second):
                found[second.name, False] = Link(first, second, second)
                found.setdefault((first.name, True), Link(first, second, first))
    return tuple(found.values())


def _are_joined(first: ComputeLayer, second: ComputeLayer) -> bool:
    convolutions = first.kind == second.kind == "conv2d"
    alike = not joins(second) and first.output_hw == second.input_hw
    return convolutions and alike and set(second.in_groups) <= {first.out_group}


def pair_shapes(graph: DependencyGraph, widths: Mapping[str, tuple[int, ...]]) -> tuple[PairShape, ...]:
    """Return every pair that a table for these widths needs, once."""
    whole = graph.widths()
    found: dict[PairShape, None] = {}
    for link in links(graph):
        for width in (None,) if link.between is None else widths[link.between]:
            if pair := link.pair_at(whole, width):
                found[pair] = None
    return tuple(found)
