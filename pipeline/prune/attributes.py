"""Numbers that the user's modules keep in attributes and bake into views, splits and groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import fx, nn
from torch.nn.modules.conv import _ConvNd

from pipeline.graph.capture import Capture
from pipeline.graph.flow import Value, describe_place, operator_name
from pipeline.graph.rules.registry import arguments
from pipeline.prune.mends import Mend, has_numbers
from pipeline.prune.plan import Number, is_constant

_EXPLAINED: tuple[tuple[type[nn.Module], str], ...] = (
    (_ConvNd, "groups"),
    (nn.GroupNorm, "num_groups"),
    (nn.LayerNorm, "normalized_shape"),
    (nn.RMSNorm, "normalized_shape"),
    (nn.RNNBase, "size"),
)
_NUMBER_OF = ("head", "group", "num", "repeat", "chunk", "split", "part", "branch")
_WIDTH_OF = ("dim", "channel", "width", "feature", "embed", "hidden", "inner", "planes", "chs", "size")


def mended_attributes(
    model: nn.Module, capture: Capture, changes: Sequence[Mend]
) -> dict[str, dict[str, Number]]:
    """Return the attributes that should change, by module: a proposal to be proved by running the model.

    An integer attribute (or one in a list) of a module of the user's is taken to be the source of a number in the
    graph where both are equal and the number is used by the module's own code.
    """
    nodes = {node.name: node for node in capture.program.graph.nodes}
    found: dict[str, dict[int, set[int]]] = {}
    attributes: dict[str, dict[str, Number]] = {}
    modules = dict(model.named_modules())
    for change in changes:
        path = describe_place(nodes[change.node])
        module = modules.get(path)
        if module is None:
            continue
        if isinstance(module, _ConvNd | nn.GroupNorm) and _is_explained(change.argument, module):
            attributes.setdefault(path, {})[change.argument] = change.after
            continue
        if not type(module).__module__.startswith("torch.nn."):  # these tell what their parameters say
            for before, after in _pairs(change.before, change.after):
                found.setdefault(path, {}).setdefault(before, set()).add(after)
    for path, numbers in found.items():
        for name, value in _integers(modules[path]):
            number = _follow(name, value, numbers)
            if number is not None and number != (list(value) if isinstance(value, tuple) else value):
                attributes.setdefault(path, {})[name] = number
    return attributes


def is_certain(model: nn.Module, capture: Capture) -> bool:
    """Tell whether layers of `torch.nn` account for every number in the graph.

    All others the model's code may have read off a shape, rightly or not: sizes, parts and indices outside of these
    layers, tensors that it makes, and factors that look like a width or its root.
    """
    modules = dict(model.named_modules())
    nodes = list(capture.program.graph.nodes)
    if any(is_constant(name) for name in capture.parameters.values()):
        return False
    for node in nodes:
        if has_numbers(node):
            layer = modules.get(describe_place(node))
            explained = any(_is_explained(argument, layer) for argument in arguments(node))
            if not explained and not _is_aside(node, capture):
                return False
    widths = _widths(capture)
    suspects = np.concatenate([widths, 1 / widths, np.sqrt(widths), 1 / np.sqrt(widths)])
    return not any(
        np.isclose(suspects, float(number), rtol=1e-6).any() for node in nodes for number in _factors(node)
    )


def _is_aside(node: fx.Node, capture: Capture) -> bool:
    """Tell whether a node's numbers cannot have to do with widths: parts of space, sizes of one or worked out."""
    name, args = operator_name(node), arguments(node)
    if name in {"view", "reshape"}:
        batch = node.all_input_nodes[0].meta["val"].shape[:1]
        sizes = list(args["shape" if "shape" in args else "size"])
        return all(size in {1, -1} or (place == 0 and (size,) == batch) for place, size in enumerate(sizes))
    value = capture.values[node.all_input_nodes[0].name] if node.all_input_nodes else None
    if not isinstance(value, Value):
        return False
    if name in {"slice", "narrow", "select"}:
        return value.dims[args["dim"]] is None
    if name in {"pad", "constant_pad_nd"}:
        return all(
            ids is None or not any(_amounts(args["pad"], back)) for back, ids in enumerate(value.dims[::-1])
        )
    return name == "roll" and bool(args["dims"]) and all(value.dims[dim] is None for dim in args["dims"])


def _amounts(pad: Sequence[int], back: int) -> Sequence[int]:
    """Return what is added before and behind a dimension, counted from the last one."""
    return pad[2 * back : 2 * back + 2]


def _is_explained(argument: str, module: nn.Module | None) -> bool:
    return any(isinstance(module, kind) and argument == name for kind, name in _EXPLAINED)


def _widths(capture: Capture) -> npt.NDArray[np.float64]:
    """Return the sizes of all dimensions that carry units."""
    sizes = {
        len(ids)
        for values in capture.values.values()
        for value in (values if isinstance(values, tuple) else (values,))
        if isinstance(value, Value)
        for ids in value.dims
        if ids is not None
    }
    return np.array(sorted(sizes) or [1], dtype=np.float64)


def _factors(node: fx.Node) -> Iterator[float]:
    """Yield the numbers that a node multiplies or divides by."""
    name = str(node.target)
    if name.startswith(("aten.mul", "aten.div", "aten.pow.Scalar")):
        yield from (arg for arg in node.args[1:] if isinstance(arg, float | int) and arg not in {0, 1, 2, 6})


def _pairs(before: Any, after: Any) -> Iterator[tuple[int, int]]:
    """Yield the numbers of two lists (or two numbers) that differ, side by side."""
    if isinstance(before, int) and isinstance(after, int):
        yield before, after
    elif isinstance(before, list | tuple) and isinstance(after, list | tuple) and len(before) == len(after):
        for one, other in zip(before, after, strict=True):
            if isinstance(one, int) and isinstance(other, int) and one != other and one > 1:
                yield one, other


def _integers(module: nn.Module) -> Iterator[tuple[str, int | list[int] | tuple[int, ...]]]:
    """Yield a module's own attributes that are an integer or a list of integers."""
    for name, value in vars(module).items():
        if name.startswith("_") or name in {"training", "call_super_init"} or isinstance(value, bool):
            continue
        listed = isinstance(value, list | tuple) and value
        if isinstance(value, int) or (listed and all(type(each) is int for each in value)):
            yield name, value


def _follow(name: str, value: int | Sequence[int], numbers: dict[int, set[int]]) -> Number | None:
    if not isinstance(value, int):
        new = [_follow(name, each, numbers) for each in value]
        return [each if one is None else one for each, one in zip(value, new, strict=True)]  # type: ignore[misc]
    afters = numbers.get(value)
    if not afters:
        return None
    if len(afters) == 1:
        return next(iter(afters))
    ranked = sorted(afters)
    if any(part in name for part in _NUMBER_OF):
        return ranked[0]
    return ranked[-1] if any(part in name for part in _WIDTH_OF) else None
