"""Which sizes in a captured graph follow the batch: found by capturing the model with another batch size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree

from pipeline.errors import ModelError
from pipeline.graph.capture import Capture
from pipeline.graph.export import export
from pipeline.graph.rules.registry import given_arguments
from pipeline.prune.copies import twin

Follows = bool | list[bool]  # for an argument that is a number, for one that is a list

# Arguments whose numbers never follow the batch; a graph that has no others need not be captured again.
_NEVER = {
    "ceil_mode", "count_include_pad", "dilation", "dim", "dims", "dim0", "dim1", "dtype", "end_dim",
    "eps", "groups", "kernel_size", "normalized_shape", "num_groups", "num_layers",
    "output_padding", "padding", "start_dim", "stride",
}  # fmt: skip
_OVER_SPACE = ("pool", "upsample")
_KNOWN: WeakKeyDictionary[ExportedProgram, BatchSizes | None] = WeakKeyDictionary()


@dataclass(frozen=True)
class BatchSizes:
    """The arguments that follow the batch, by node and name; `batch` is the size in the captured graph."""

    batch: int
    arguments: Mapping[str, Mapping[str, Follows]] = field(default_factory=dict)


def batch_sizes(model: nn.Module, capture: Capture) -> BatchSizes | None:
    """Capture the model again with a larger batch and compare all numbers, node by node.

    Every number that grew in proportion follows the batch. If any other differs, or the model does not take another
    batch, `None` is returned: the graph is for the captured size alone. The answer is kept as long as the capture.
    """
    program = capture.program
    if program not in _KNOWN:
        _KNOWN[program] = _found(model, program)
    return _KNOWN[program]


def _found(model: nn.Module, program: ExportedProgram) -> BatchSizes | None:
    inputs = program.example_inputs[0] if program.example_inputs else ()
    sizes = {one.shape[0] if one.ndim else 0 for one in inputs if isinstance(one, Tensor)}
    if len(sizes) != 1 or 0 in sizes:
        return None
    batch = int(sizes.pop())
    if not any(_may_follow(node) for node in program.graph.nodes):
        return BatchSizes(batch)
    other = 2 * batch + 1
    try:
        second = export(twin(model).eval(), tuple(_with_batch(one, other) for one in inputs))
    except ModelError:
        return None
    return _compared(program, second, batch, other)


def _with_batch(example: Tensor, batch: int) -> Tensor:
    return torch.zeros((batch, *example.shape[1:]), dtype=example.dtype, device=example.device)


def _may_follow(node: fx.Node) -> bool:
    """Tell whether any argument of a node is a size, or in a graph of its own."""
    if node.op != "call_function":
        return node.op == "get_attr"
    if not hasattr(node.target, "_schema") or any(part in str(node.target) for part in _OVER_SPACE):
        return False
    given = {name: value for name, value in given_arguments(node).items() if name not in _NEVER}
    return any(type(leaf) is int for leaf in pytree.tree_leaves(given))


def _compared(first: ExportedProgram, second: ExportedProgram, batch: int, other: int) -> BatchSizes | None:
    found: dict[str, dict[str, Follows]] = {}
    pairs = _pairs(first.graph_module, second.graph_module)
    for mine, its in pairs or ():
        theirs = given_arguments(its)
        for name, value in given_arguments(mine).items():
            follows = _follows(value, theirs.get(name), batch, other)
            if follows is None:
                return None
            if follows is True or (isinstance(follows, list) and True in follows):
                if mine.graph is not first.graph:  # a graph that is called is taken as it is
                    return None
                found.setdefault(mine.name, {})[name] = follows
    return None if pairs is None else BatchSizes(batch, found)


def _pairs(first: fx.GraphModule, second: fx.GraphModule) -> list[tuple[fx.Node, fx.Node]] | None:
    """Return the calls of two captures side by side, those in graphs of their own included."""
    found: list[tuple[fx.Node, fx.Node]] = []
    ours, theirs = (
        [node for node in module.graph.nodes if node.op in {"call_function", "get_attr"}]
        for module in (first, second)
    )
    if len(ours) != len(theirs):
        return None
    for mine, its in zip(ours, theirs, strict=True):
        if mine.op == its.op == "get_attr":
            called, also = first.get_submodule(str(mine.target)), second.get_submodule(str(its.target))
            both = isinstance(called, fx.GraphModule) and isinstance(also, fx.GraphModule)
            inner = _pairs(called, also) if both else None  # type: ignore[arg-type]
            if inner is None:
                return None
            found += inner
        elif mine.target is not its.target:
            return None
        else:
            found.append((mine, its))
    return found


def _follows(before: Any, after: Any, batch: int, other: int) -> Any:
    """Tell whether a number, or which of a list, follows the batch; `None` if it differs in another way."""
    if isinstance(before, list | tuple) and isinstance(after, list | tuple):
        if len(before) != len(after):
            return None
        each = [_follows(one, two, batch, other) for one, two in zip(before, after, strict=True)]
        return None if None in each else [follows is True for follows in each]
    if not isinstance(before, int | float) or before == after:
        return False
    return True if type(before) is type(after) is int and before * other == after * batch else None
