"""Which activations are alive at each step, as a linear function of the groups' widths.

Buffers are shared as runtimes share them: a view lives in its input's memory, an elementwise result
overwrites its input where nobody needs that any more. The model's own input is never overwritten.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import fx

from pipeline.graph.assemble import Grouping
from pipeline.graph.flow import Flow, Value
from pipeline.graph.groups import LiveSet
from pipeline.graph.rules.registry import RULES

FLOAT_BYTES = 4


@dataclass
class _Buffer:
    """A piece of memory: the steps from which and to which it is needed, and how large it is."""

    first: int
    last: int
    owner: fx.Node
    is_input: bool = False
    nodes: list[fx.Node] = field(default_factory=list)


def liveness(flow: Flow, grouping: Grouping, nodes: Sequence[fx.Node], batch: int) -> tuple[LiveSet, ...]:
    """Return one set for every node that computes something, in order of execution.

    `batch` is the number of samples that the model was traced with; the sets are for one.
    """
    buffers = _buffers(flow, nodes)
    widths = {group.name: group.width for group in grouping.groups}
    sizes = [_size(flow, grouping, widths, buffer.owner, batch) for buffer in buffers]
    owners = {buffer.owner for buffer in buffers if not buffer.is_input}
    sets = []
    alive: dict[int, tuple[float, dict[str, float]]] = {}
    starts, ends = _by_step([buffer.first for buffer in buffers]), _by_step([b.last + 1 for b in buffers])
    for step, node in enumerate(nodes):
        alive.update({number: sizes[number] for number in starts.get(step, ())})
        for number in ends.get(step, ()):
            del alive[number]
        if node in owners or _kind(node) == "in_place":
            sets.append(_sum(node.name, [alive[number] for number in sorted(alive)]))
    return tuple(sets)


def _by_step(steps: Sequence[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for number, step in enumerate(steps):
        found.setdefault(step, []).append(number)
    return found


def _buffers(flow: Flow, nodes: Sequence[fx.Node]) -> list[_Buffer]:
    """Give every node's result a buffer, its own or its input's."""
    order = {node: step for step, node in enumerate(nodes)}
    holder: dict[fx.Node, _Buffer] = {}
    made = []
    for step, node in enumerate(nodes):
        if node.op == "output" or flow.parameter(node) is not None:
            continue
        last = max((order[user] for user in node.users), default=step)
        shared = _shared(flow, node, step, holder)
        if shared is None:
            shared = _Buffer(step, last, node, is_input=node.op == "placeholder")
            made.append(shared)
        shared.last = max(shared.last, last)
        shared.nodes.append(node)
        holder[node] = shared
    return made


def _shared(flow: Flow, node: fx.Node, step: int, holder: dict[fx.Node, _Buffer]) -> _Buffer | None:
    """Return the input's buffer where the result of `node` lives in it."""
    sources = [source for source in node.all_input_nodes if source in holder]
    kind = _kind(node)
    if not sources or kind == "new":
        return None
    if kind == "view" or _writes_in_place(node):
        return holder[sources[0]]
    shape = flow.value(node).shape
    for source in sources:
        buffer = holder[source]
        if buffer.last == step and not buffer.is_input and flow.value(source).shape == shape:
            return buffer
    return None


def _kind(node: fx.Node) -> str:
    found = RULES.get(str(node.target))
    return found.buffer if found is not None and node.op == "call_function" else "new"


def _writes_in_place(node: fx.Node) -> bool:
    name = str(node.target).split(".")
    return len(name) > 1 and name[1].endswith("_")


def _size(
    flow: Flow, grouping: Grouping, widths: dict[str, int], node: fx.Node, batch: int
) -> tuple[float, dict[str, float]]:
    """Return the fixed bytes and the bytes a unit of each group of what a node gives, for one sample."""
    values = flow.values[node]
    fixed, per_unit = 0.0, dict[str, float]()
    for value in values if isinstance(values, tuple) else (values,):
        more, terms = _value_size(flow, grouping, widths, value, batch)
        fixed += more
        for group, each in terms.items():
            per_unit[group] = per_unit.get(group, 0.0) + each
    return fixed, per_unit


def _value_size(
    flow: Flow, grouping: Grouping, widths: dict[str, int], value: Value, batch: int
) -> tuple[float, dict[str, float]]:
    """Where two dimensions carry units, the second counts at full width: an upper bound."""
    total = FLOAT_BYTES * math.prod(value.shape) / batch
    for size, ids in zip(value.shape, value.dims, strict=True):
        entries = grouping.count(flow.units, ids)
        if entries:
            entry = total / size
            return (
                entry * (size - entries.total()),
                {group: entry * count / widths[group] for group, count in entries.items()},
            )
    return total, {}


def _sum(step: str, sizes: list[tuple[float, dict[str, float]]]) -> LiveSet:
    per_unit: dict[str, float] = {}
    for _, terms in sizes:
        for group, each in terms.items():
            per_unit[group] = per_unit.get(group, 0.0) + each
    return LiveSet(step, round(sum(fixed for fixed, _ in sizes)), per_unit)
