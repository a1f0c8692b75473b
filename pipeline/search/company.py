"""What two neighbouring layers take less, or more, than each alone.

A layer that is timed alone pays for its surroundings: onnxruntime on x86 turns its input into the blocked layout that
its convolutions want, and its output back, which it does once for a whole chain of them. So two convolutions, the
second of which takes what the first gives, are timed in one file too, at each width between them; what they take less
than apart is a term of that width. Without it the sum of layers was 11, 89 and 27 % above three whole models, with it
8, 8 and 0 % (`tests/bench/neighbours.py`); what is left lies at additions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pipeline.search.shapes import GONE, PairShape, joins, shape_at

if TYPE_CHECKING:
    from pipeline.graph.groups import ComputeLayer, DependencyGraph

Edge = tuple["ComputeLayer", "ComputeLayer"]


def edges(graph: DependencyGraph) -> tuple[Edge, ...]:
    """Return the convolutions that directly follow one another, within one block or outside of all."""
    layers = {layer.name: layer for layer in graph.layers}
    found = ((layers[layer.follows], layer) for layer in graph.layers if layer.follows is not None)
    return tuple((first, second) for first, second in found if _are_joined(first, second))


def _are_joined(first: ComputeLayer, second: ComputeLayer) -> bool:
    convolutions = first.kind == second.kind == "conv2d"
    alike = first.only_with == second.only_with and not joins(second) and first.output_hw == second.input_hw
    return convolutions and alike and set(second.in_groups) <= {first.out_group}


def between(edge: Edge) -> str | None:
    """Return the group whose width lies between two layers; None where that never changes."""
    return next(iter(edge[1].in_groups), None)


def pair_at(edge: Edge, whole: Mapping[str, int], width: int | None) -> PairShape | None:
    """Return the two layers with `width` units between them, all else whole; None where they are gone."""
    name = between(edge)
    kept = whole if name is None or width is None else {**whole, name: width}
    first, second = (shape_at(layer, kept) for layer in edge)
    return None if GONE in (first, second) or (not width and name is not None) else PairShape(first, second)


def pair_shapes(graph: DependencyGraph, widths: Mapping[str, tuple[int, ...]]) -> tuple[PairShape, ...]:
    """Return every pair that a table for these widths needs, once."""
    whole = graph.widths()
    found: dict[PairShape, None] = {}
    for edge in edges(graph):
        name = between(edge)
        for width in (None,) if name is None else widths[name]:
            if pair := pair_at(edge, whole, width):
                found[pair] = None
    return tuple(found)
