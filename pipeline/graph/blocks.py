"""Which residual blocks of a model can go as a whole: `nn.Identity()` in their place.

Found in the graph, never by class names: a submodule with one input and one output of equal shape, whose
output is the input plus what its branches add. Where a ReLU comes last, the input must be one's output too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import fx, nn

from pipeline.graph.flow import Flow, modules_of
from pipeline.graph.groups import Block, ComputeLayer, LiveSet, PruningGroup
from pipeline.prune.plan import is_constant, is_within

_ADDS = {"aten.add.Tensor", "aten.add_.Tensor"}
_SAME = {"aten.dropout.default", "aten.dropout_.default", "aten.alias.default", "aten.contiguous.default"}
_POOLS = {"aten.max_pool2d.default", "aten.adaptive_max_pool2d.default"}


@dataclass
class _Border:
    """The tensors that go into a module and come out of it."""

    given: set[fx.Node] = field(default_factory=set)
    made: set[fx.Node] = field(default_factory=set)


@dataclass
class _Contents:
    """What belongs to a module: groups and compute layers all of which is inside."""

    groups: list[PruningGroup] = field(default_factory=list)
    layers: list[ComputeLayer] = field(default_factory=list)


def find_blocks(
    model: nn.Module,
    flow: Flow,
    nodes: Sequence[fx.Node],
    groups: Sequence[PruningGroup],
    layers: Sequence[ComputeLayer],
    choosable: Sequence[str],
) -> tuple[Block, ...]:
    """Return the model's droppable blocks in order of execution: the innermost ones, by their outermost name."""
    borders = _borders(flow, nodes)
    contents = _contents(groups, layers)
    shared = _shared_names(model)
    ends: dict[str, tuple[fx.Node, fx.Node]] = {}
    taken: dict[str, list[str]] = {}
    for name in sorted(borders, key=lambda path: -path.count(".")):
        inner = taken.pop(name, [])
        found = _residual(flow, name, borders[name])
        if found and not _leaks(name, shared) and (not inner or [ends[each] for each in inner] == [found]):
            for each in inner:
                del ends[each]
            ends[name], inner = found, [name]
        parent = name.rpartition(".")[0]
        if inner and parent:
            taken.setdefault(parent, []).extend(inner)
    order = {node: step for step, node in enumerate(nodes)}
    names = sorted(ends, key=lambda name: order[ends[name][1]])
    return tuple(_block(name, contents.get(name, _Contents()), set(choosable)) for name in names)


def mark_layers(layers: Sequence[ComputeLayer], blocks: Sequence[Block]) -> tuple[ComputeLayer, ...]:
    """Tell each layer of a block which group it goes with."""
    group_of = {layer: block.group for block in blocks for layer in block.layers}
    return tuple(replace(layer, only_with=group_of.get(layer.name)) for layer in layers)


def mark_steps(
    steps: Sequence[LiveSet], nodes: Sequence[fx.Node], blocks: Sequence[Block]
) -> tuple[LiveSet, ...]:
    """Tell each step within a block which group it goes with."""
    group_of = {block.name: block.group for block in blocks}
    found = {
        node.name: next((group_of[path] for path in modules_of(node) if path in group_of), None)
        for node in nodes
    }
    return tuple(replace(step, only_with=found[step.step]) for step in steps)


# --- borders ---


def _borders(flow: Flow, nodes: Sequence[fx.Node]) -> dict[str, _Border]:
    """Return what goes into and out of every module, weights aside."""
    inside = {node: modules_of(node) for node in nodes}
    borders: dict[str, _Border] = {path: _Border() for paths in inside.values() for path in paths}
    for node in nodes:
        for source in node.all_input_nodes:
            if flow.is_weight(source) or inside[source] == inside[node]:
                continue
            for path in set(inside[node]).difference(inside[source]):
                borders[path].given.add(source)
            for path in set(inside[source]).difference(inside[node]):
                borders[path].made.add(source)
    return borders


def _residual(flow: Flow, name: str, border: _Border) -> tuple[fx.Node, fx.Node] | None:
    """Return the input and the output of a residual block, `None` for anything else."""
    if len(border.given) != 1 or len(border.made) != 1:
        return None
    (given,), (made,) = border.given, border.made
    if flow.values.get(given) is None or flow.value(given).shape != flow.value(made).shape:
        return None
    last = made
    if _is_relu(made):
        if not _is_settled(given, made):
            return None
        last = made.all_input_nodes[0]
    return (given, made) if _is_sum_with(last, given, name) else None


def _is_sum_with(node: fx.Node, given: fx.Node, name: str) -> bool:
    """Tell whether a node within the module is the module's input plus something."""
    while str(node.target) in _SAME and name in modules_of(node):
        node = node.all_input_nodes[0]
    sources = node.all_input_nodes
    if str(node.target) not in _ADDS or node.kwargs or len(sources) != 2 or name not in modules_of(node):
        return False
    if len({tuple(source.meta["val"].shape) for source in sources}) > 1:
        return False
    return any(_is_the_same(each, given) or _is_sum_with(each, given, name) for each in sources)


def _is_the_same(node: fx.Node, given: fx.Node) -> bool:
    while node is not given and str(node.target) in _SAME:
        node = node.all_input_nodes[0]
    return node is given


def _is_relu(node: fx.Node) -> bool:
    return _ceiling(node) is not None


def _ceiling(node: fx.Node) -> float | None:
    """Return what a ReLU clips to from above, `None` for any other operator."""
    name = str(node.target)
    if name in {"aten.relu.default", "aten.relu_.default"}:
        return float("inf")
    if name in {"aten.relu6.default", "aten.relu6_.default"}:
        return 6.0
    if name in {"aten.hardtanh.default", "aten.hardtanh_.default"} and node.args[1:2] == (0.0,):
        return float(str(node.args[2])) if len(node.args) > 2 else 1.0
    return None


def _is_settled(given: fx.Node, relu: fx.Node) -> bool:
    """Tell whether another ReLU would leave the values of a node as they are."""
    while str(given.target) in _POOLS | _SAME:
        given = given.all_input_nodes[0]
    own, other = _ceiling(given), _ceiling(relu)
    return own is not None and other is not None and own <= other


# --- contents ---


def _contents(groups: Iterable[PruningGroup], layers: Iterable[ComputeLayer]) -> dict[str, _Contents]:
    contents: dict[str, _Contents] = {}
    for group in groups:
        names = [member.parameter for member in group.members]
        home = _common(names) if not any(is_constant(name) for name in names) else ""
        for path in _upwards(home):
            contents.setdefault(path, _Contents()).groups.append(group)
    for layer in layers:
        for path in _upwards(layer.name.partition("#")[0]):
            contents.setdefault(path, _Contents()).layers.append(layer)
    return contents


def _common(names: Sequence[str]) -> str:
    """Return the module that all these parameters are in."""
    first, last = min(names).split("."), max(names).split(".")
    same = 0
    while same < min(len(first), len(last)) - 1 and first[same] == last[same]:
        same += 1
    return ".".join(first[:same])


def _upwards(path: str) -> list[str]:
    parts = path.split(".") if path else []
    return [".".join(parts[:end]) for end in range(1, len(parts) + 1)]


def _shared_names(model: nn.Module) -> list[list[str]]:
    """Return the names of every module, parameter and buffer that has several."""
    names: dict[int, list[str]] = {}
    for path, thing in (
        *model.named_modules(remove_duplicate=False),
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        names.setdefault(id(thing), []).append(path)
    return [each for each in names.values() if len(each) > 1]


def _leaks(name: str, shared: Sequence[Sequence[str]]) -> bool:
    """Tell whether the module or something in it is also used under a name outside."""
    return any(len({is_within(each, name) for each in names}) == 2 for names in shared)


def _block(name: str, contents: _Contents, choosable: set[str]) -> Block:
    inside = [group.name for group in contents.groups if group.name in choosable]
    group = inside[0] if len(inside) == 1 and _fits_pairs(contents.layers, inside[0]) else None
    layers = tuple(layer.name for layer in contents.layers)
    return Block(name, group, layers, tuple(group.name for group in contents.groups))


def _fits_pairs(layers: Sequence[ComputeLayer], group: str) -> bool:
    """Costs are terms over two groups: the block's own, and one more that a layer in it depends on."""
    return all(
        len(set(layer.in_groups)) <= 1 and len({*layer.in_groups, layer.out_group} - {group, None}) <= 1
        for layer in layers
    )
