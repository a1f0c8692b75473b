"""A slimming plan: the units that stay of each group, the entries of each parameter. Plain data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError
from torch import nn

from pipeline.errors import ModelError

if TYPE_CHECKING:
    from pipeline.graph.groups import Block, PruningGroup


@dataclass(frozen=True)
class SlimmingPlan:
    """What to take out of one model.

    `keep` holds the kept units of every group, ascending; `widths` every group's width (before, after);
    `slices` for each parameter or buffer that shrinks the kept entries by dimension; `dropped` the names of
    the residual blocks that go as a whole, whose groups keep nothing. `model_digest` is that of the model
    which the plan was made for (see `model_digest`).
    """

    keep: dict[str, tuple[int, ...]]
    slices: dict[str, dict[int, tuple[int, ...]]]
    widths: dict[str, tuple[int, int]]
    model_digest: str
    dropped: tuple[str, ...] = ()

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return _adapter().dump_json(self).decode()

    @classmethod
    def from_json(cls, text: str) -> SlimmingPlan:
        """Read a plan back.

        Raises:
            ModelError: the text is not a plan.
        """
        try:
            return _adapter().validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"]) or "the text"
            raise ModelError(
                f"not a slimming plan: {place}: {first['msg']}", hint="give a file that `to_json` wrote"
            ) from error


@cache
def _adapter() -> TypeAdapter[SlimmingPlan]:
    return TypeAdapter(SlimmingPlan)


def model_digest(model: nn.Module) -> str:
    """Return a fingerprint of a model's structure: classes, names and shapes; not weights, dtype, device."""
    lines = [
        f"{name} {type(module).__qualname__}" for name, module in model.named_modules(remove_duplicate=False)
    ]
    lines += [f"{name} {tuple(one.shape)}" for name, one in model.named_parameters(remove_duplicate=False)]
    lines += [f"{name} {tuple(one.shape)}" for name, one in model.named_buffers(remove_duplicate=False)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def make_plan(
    groups: Sequence[PruningGroup],
    digest: str,
    keep: Mapping[str, Sequence[int]],
    blocks: Sequence[Block] = (),
) -> SlimmingPlan:
    """Return the plan that keeps `keep` of the named groups and all units of the others.

    A block whose group keeps nothing is dropped.

    Raises:
        ModelError: a group is unknown, its kept units are double or out of range, or none are kept of a group
            without a block.
    """
    unknown = sorted(set(keep) - {group.name for group in groups})
    if unknown:
        raise ModelError(
            f"no pruning group is named {unknown[0]!r}",
            hint="graph.groups lists them, graph.frozen what must stay",
        )
    droppable = {block.group for block in blocks}
    kept = {
        group.name: _checked(group, keep.get(group.name), can_go=group.name in droppable) for group in groups
    }
    dropped = tuple(block.name for block in blocks if not kept[block.group])
    widths = {group.name: (group.width, len(kept[group.name])) for group in groups}
    slices = {
        name: dims
        for name, dims in _slices(groups, kept).items()
        if not any(is_within(name, block) for block in dropped)
    }
    return SlimmingPlan(kept, slices, widths, digest, dropped)


def is_within(name: str, module: str) -> bool:
    """Tell whether a dotted name is that of `module` or of something in it."""
    return f"{name}.".startswith(f"{module}.")


def _checked(group: PruningGroup, units: Sequence[int] | None, *, can_go: bool) -> tuple[int, ...]:
    if units is None:
        return tuple(range(group.width))
    kept = tuple(sorted(int(unit) for unit in units))
    fault = None if can_go and not kept else index_fault(kept, group.width)
    if fault:
        raise ModelError(f"group {group.name} (width {group.width}): {fault}")
    return kept


def index_fault(kept: Sequence[int], size: int) -> str | None:
    """Return what is wrong with the entries to keep of `size`, or `None`."""
    if not kept:
        return "nothing would be left of it; at least one must stay"
    outside = [index for index in kept if not 0 <= index < size]
    if outside:
        return f"index {outside[0]} is out of range 0 to {size - 1}"
    if len(set(kept)) < len(kept):
        return f"index {next(index for index in kept if list(kept).count(index) > 1)} is given twice"
    return None


def _slices(
    groups: Sequence[PruningGroup], kept: Mapping[str, tuple[int, ...]]
) -> dict[str, dict[int, tuple[int, ...]]]:
    dropped: dict[tuple[str, int], set[int]] = {}
    sizes: dict[tuple[str, int], int] = {}
    for group in groups:
        gone = sorted(set(range(group.width)) - set(kept[group.name]))
        for member in group.members if gone else ():
            place = (member.parameter, member.dim)
            dropped.setdefault(place, set()).update(index for unit in gone for index in member.indices[unit])
            sizes[place] = member.size
    slices: dict[str, dict[int, tuple[int, ...]]] = {}
    for (parameter, dim), gone_entries in dropped.items():
        left = tuple(index for index in range(sizes[parameter, dim]) if index not in gone_entries)
        slices.setdefault(parameter, {})[dim] = left
    return slices
