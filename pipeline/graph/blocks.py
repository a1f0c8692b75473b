"""Which residual blocks of a model can go as a whole: `nn.Identity()` in their place.

Found by looking, never by class names: a submodule that holds all of exactly one pruning group, and that
was seen to give its own input back when this group contributes nothing. What is left of such a block
without its branch is its skip, so dropping it is what removing all of its units would be.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.graph.groups import Block, ComputeLayer, LiveSet, PruningGroup
from pipeline.graph.probe import lively, outputs_of
from pipeline.prune.plan import is_within
from pipeline.prune.slim import replace_module

CONSTANTS = {"bias", "running_mean"}  # what a branch without input still adds


@dataclass
class _Calls:
    """What one module was called with, and whether each call was one tensor to one of the same shape."""

    given: list[Tensor]
    plain: bool = True


def find_blocks(
    model: nn.Module,
    groups: Sequence[PruningGroup],
    layers: Sequence[ComputeLayer],
    inputs: tuple[Tensor, ...],
) -> tuple[Block, ...]:
    """Return the model's droppable blocks in the order of their groups; of nested ones the outermost.

    `model` is in eval mode and stays as it is.
    """
    noisy = tuple(lively(one) for one in inputs)
    homes = _homes(model, groups)
    try:
        calls, shapes = _record(model, [name for names in homes.values() for name in names], noisy)
    except Exception:  # noqa: BLE001 (the user's forward may raise anything, here at the sight of noise)
        return ()
    blocks = []
    for group in groups:
        for name in homes[group.name]:
            inside = [layer for layer in layers if is_within(layer.name.partition("#")[0], name)]
            if (
                _fits_pairs(inside, group.name)
                and _has_identity_skip(model.get_submodule(name), name, group, calls[name])
                and _runs_without(model, name, noisy, shapes)
            ):
                blocks.append(Block(name, group.name, tuple(layer.name for layer in inside)))
                break
    return tuple(blocks)


def mark_layers(layers: Sequence[ComputeLayer], blocks: Sequence[Block]) -> tuple[ComputeLayer, ...]:
    """Tell each layer of a block which group it goes with."""
    group_of = {layer: block.group for block in blocks for layer in block.layers}
    return tuple(replace(layer, only_with=group_of.get(layer.name)) for layer in layers)


def mark_steps(
    steps: Sequence[LiveSet], nodes: Sequence[fx.Node], blocks: Sequence[Block]
) -> tuple[LiveSet, ...]:
    """Tell each step within a block which group it goes with."""
    modules = {
        node.name: [path for path, _ in node.meta.get("nn_module_stack", {}).values()] for node in nodes
    }

    def group_of(step: LiveSet) -> str | None:
        return next((block.group for block in blocks if block.name in modules[step.step]), None)

    return tuple(replace(step, only_with=group_of(step)) for step in steps)


def _homes(model: nn.Module, groups: Sequence[PruningGroup]) -> dict[str, list[str]]:
    """Return for each group the submodules that hold all of it and of no other, the outermost first."""
    homes: dict[str, list[str]] = {group.name: [] for group in groups}
    for name, module in model.named_modules():
        if not name or next(module.children(), None) is None:
            continue
        held = [group.name for group in groups if _holds(name, group)]
        if len(held) == 1 and not _is_shared(model, name):
            homes[held[0]].append(name)
    return homes


def _holds(name: str, group: PruningGroup) -> bool:
    return all(is_within(member.parameter, name) for member in group.members)


def _is_shared(model: nn.Module, name: str) -> bool:
    """Tell whether the module or something in it is also used under a name outside."""
    things = [
        *model.named_modules(remove_duplicate=False),
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    inside = {id(thing) for path, thing in things if is_within(path, name)}
    return any(id(thing) in inside for path, thing in things if not is_within(path, name))


def _record(
    model: nn.Module, names: Sequence[str], inputs: tuple[Tensor, ...]
) -> tuple[dict[str, _Calls], list[torch.Size]]:
    """Run the model once; return how the named modules were called, and the shapes of its outputs."""
    calls = {name: _Calls([]) for name in names}
    hooks = []
    for name, seen in calls.items():
        module = model.get_submodule(name)
        hooks.append(module.register_forward_pre_hook(_before(seen), with_kwargs=True))
        hooks.append(module.register_forward_hook(_after(seen)))
    try:
        shapes = [one.shape for one in outputs_of(model, inputs)]
    finally:
        for hook in hooks:
            hook.remove()
    return calls, shapes


def _before(seen: _Calls) -> Any:
    def note(_: nn.Module, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
        if len(args) == 1 and not kwargs and isinstance(args[0], Tensor):
            seen.given.append(args[0].clone())  # the module may write into it
        else:
            seen.plain = False

    return note


def _after(seen: _Calls) -> Any:
    def note(_: nn.Module, __: object, output: object) -> None:
        given = seen.given[-1] if seen.given else None
        if not isinstance(output, Tensor) or given is None or output.shape != given.shape:
            seen.plain = False

    return note


def _fits_pairs(layers: Sequence[ComputeLayer], group: str) -> bool:
    """Costs are terms over two groups: the block's own, and one more that a layer in it depends on."""
    return all(
        len(set(layer.in_groups)) <= 1 and len({*layer.in_groups, layer.out_group} - {group, None}) <= 1
        for layer in layers
    )


def _has_identity_skip(module: nn.Module, name: str, group: PruningGroup, calls: _Calls) -> bool:
    """Tell whether the module gives back its input, bit for bit, once its branch adds nothing.

    A last ReLU does not matter where the input is one's output already; whatever else stands in the skip
    does. An input of zeros proves nothing.
    """
    if not calls.plain or len(calls.given) != 1 or not calls.given[0].any():
        return False
    bare = copy.deepcopy(module)
    tensors = dict(_tensors(bare))
    for member in group.members:
        if member.role == "in":
            tensor = tensors[member.parameter.removeprefix(f"{name}.")]
            entries = torch.tensor([index for unit in member.indices for index in unit], device=tensor.device)
            tensor.index_fill_(member.dim, entries, 0.0)
    for path, tensor in tensors.items():
        if path.rpartition(".")[2] in CONSTANTS:
            tensor.zero_()
    (given,) = calls.given
    with torch.no_grad():
        return torch.equal(bare(given.clone()), given)


def _tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers under all their names, detached but in the same memory."""
    named = (
        *module.named_parameters(remove_duplicate=False),
        *module.named_buffers(remove_duplicate=False),
    )
    for name, tensor in named:
        yield name, tensor.detach()


def _runs_without(
    model: nn.Module, name: str, inputs: tuple[Tensor, ...], shapes: Sequence[torch.Size]
) -> bool:
    """Tell whether the model gives outputs of the same shapes with an identity in the module's place."""
    module = model.get_submodule(name)
    replace_module(model, name, nn.Identity())
    try:
        return [one.shape for one in outputs_of(model, inputs)] == list(shapes)
    except Exception:  # noqa: BLE001 (the user's forward may raise anything)
        return False
    finally:
        replace_module(model, name, module)
