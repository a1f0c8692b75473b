"""Which constants of a captured graph must change for it to run on slimmed tensors.

These are sizes, numbers of groups, parts, slices, positions, amounts of padding, the scale of an attention, and
tensors that the model's code makes. Mends tell both how to rewrite the graph and what the model's code bakes in.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import fx

from pipeline.graph.capture import Alive, Capture
from pipeline.graph.flow import operator_name
from pipeline.graph.rules.registry import arguments
from pipeline.prune import mends_picks, mends_sizes
from pipeline.prune.mends_base import MENDERS, Mend, Shrunk
from pipeline.prune.plan import is_constant

__all__ = ["Mend", "mends", "mends_picks", "mends_sizes"]


def mends(capture: Capture, alive: Alive) -> list[Mend]:
    """Return all constants of the graph that must change under `alive`, in order of execution.

    Raises:
        ModelError: an operator cannot be made to run on what is left; the message names it and its module.
    """
    shrunk = Shrunk(capture, alive)
    smaller: set[fx.Node] = set()
    found: list[Mend] = []
    for node in capture.program.graph.nodes:
        if shrunk.loses(node):
            smaller.add(node)
        if has_numbers(node):
            if node in smaller or not smaller.isdisjoint(node.all_input_nodes):
                found += MENDERS[operator_name(node)](shrunk, node, arguments(node))
        elif node.op == "placeholder" and node in smaller and node.users:
            found += _constant(shrunk, node, capture.parameters.get(node.name))
    return found


def has_numbers(node: fx.Node) -> bool:
    """Tell whether a node calls an operator with sizes, parts, positions or the like among its arguments."""
    return node.op == "call_function" and operator_name(node) in MENDERS


def _constant(shrunk: Shrunk, node: fx.Node, name: str | None) -> Iterator[Mend]:
    """A tensor that the model's code makes is sliced like a buffer, but it is the code that must change."""
    if name is not None and is_constant(name):
        value = shrunk.value(node)
        yield Mend(node.name, "shape", list(value.shape), list(shrunk.shape(value)))
