"""What a layer takes less, or more, beside others than alone.

A layer that is timed alone pays for its surroundings: onnxruntime on x86 turns its input into the blocked layout that
its convolutions want, and its output back, which it does once for a whole chain of them, additions included. So two
convolutions, the second of which takes what the first gives, are timed in one file too, at each width between them.
Half of what they take less than apart belongs to either. A layer behind an addition has several in front, one
before it several behind; each is timed with one of them, and its half goes with it when its block is dropped.

Whether the first of two can compute in that layout depends on its inputs, too (onnxruntime takes them by fours). So
those that save much are timed at each width in front of the first as well, the width between them whole, and what
they save is taken as a product of both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.search.shapes import GONE, PairShape, joins, shape_at

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

    @property
    def entry(self) -> str | None:
        """The group in front of the first layer; None where its width never changes or goes with a third group."""
        name = next(iter(self.first.in_groups), None)
        alone = not joins(self.first) and name != self.between
        return name if alone and self.owner.only_with in {None, name, self.between} else None

    def pair_at(
        self, whole: Mapping[str, int], between: int | None = None, entry: int | None = None
    ) -> PairShape | None:
        """Return the two layers with so many units between and in front, all else whole; None where they are gone."""
        chosen = {self.between: between, self.entry: entry}
        kept = {**whole, **{name: width for name, width in chosen.items() if name and width is not None}}
        first, second = (shape_at(layer, kept) for layer in (self.first, self.second))
        gone = GONE in (first, second) or between == 0 or entry == 0
        return None if gone else PairShape(first, second)


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
    found: dict[PairShape | None, None] = {}
    for link in links(graph):
        between = () if link.between is None else widths[link.between]
        found |= dict.fromkeys((link.pair_at(whole), *(link.pair_at(whole, width) for width in between)))
    return tuple(pair for pair in found if pair is not None)


def front_shapes(
    graph: DependencyGraph, widths: Mapping[str, tuple[int, ...]], worth: Callable[[PairShape], bool]
) -> tuple[PairShape, ...]:
    """Return the pairs at each width in front of their first layer, of those that are worth it at full width."""
    whole = graph.widths()
    found: dict[PairShape | None, None] = {}
    for link in links(graph):
        pair = link.pair_at(whole)
        if link.entry is not None and pair is not None and worth(pair):
            found |= dict.fromkeys(link.pair_at(whole, None, width) for width in widths[link.entry][:-1])
    return tuple(pair for pair in found if pair is not None)
