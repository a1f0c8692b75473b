"""A slimming plan: the units that stay of each group, the entries of each parameter. Plain data."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.prune.connections import Connections

if TYPE_CHECKING:
    from pipeline.graph.groups import DependencyGraph, PruningGroup


Number = int | list[int]  # of an attribute


@dataclass(frozen=True)
class InputSpec:
    """One example input of a model: its shape and its dtype ("float32")."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @classmethod
    def of(cls, given: Tensor) -> InputSpec:
        """Return the spec of a tensor."""
        return cls(tuple(given.shape), str(given.dtype).removeprefix("torch."))

    def example(self) -> Tensor:
        """Return zeros of this spec."""
        return torch.zeros(self.shape, dtype=getattr(torch, self.dtype))


@dataclass(frozen=True)
class SlimmingPlan:
    """What to take out of one model.

    `keep` holds the kept units of every group, ascending; `widths` every group's width (before, after);
    `slices` for each parameter or buffer that shrinks the kept entries by dimension; `dropped` the names of
    the residual blocks that go as a whole, whose groups keep nothing. `model_digest` is that of the model
    which the plan was made for (see `model_digest`).

    `form` says what `slim` returns: a "module" of the model's own classes, in which `attributes` (by module and
    attribute) are set to other numbers; or, where the model's code bakes in widths that cannot be mended so, a
    "graph" module that runs the model's captured graph. `inputs` are those that the model was traced with.
    `connections` says for single parameters which of their weights stay; the others become zero.
    """

    keep: dict[str, tuple[int, ...]]
    slices: dict[str, dict[int, tuple[int, ...]]]
    widths: dict[str, tuple[int, int]]
    model_digest: str
    dropped: tuple[str, ...] = ()
    attributes: dict[str, dict[str, Number]] = field(default_factory=dict)
    form: Literal["module", "graph"] = "module"
    inputs: tuple[InputSpec, ...] = ()
    connections: dict[str, Connections] = field(default_factory=dict)

    @property
    def left(self) -> dict[str, tuple[int, ...]]:
        """The kept units of the groups that keep some; those of dropped blocks are left out with their block."""
        return {name: units for name, units in self.keep.items() if units}

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
    lines = []
    for path, module in model.named_modules(remove_duplicate=False):
        tensors = {**module._parameters, **module._buffers}  # noqa: SLF001 (named_parameters takes five times as long)
        shapes = (f"{name} {tuple(one.shape)}" for name, one in tensors.items() if one is not None)
        lines.append(" ".join((path, type(module).__qualname__, *shapes)))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def make_plan(
    graph: DependencyGraph, keep: Mapping[str, Sequence[int]], drop: Collection[str] = ()
) -> SlimmingPlan:
    """Return the plan that keeps `keep` of the named groups and all units of the others.

    The blocks named in `drop` go as a whole, as do those of which `keep` keeps nothing.

    Raises:
        ModelError: a group or block is unknown, kept units are double or out of range, or none are kept of a
            group without a block.
    """
    _refuse_unknown(keep, [group.name for group in graph.groups], "pruning group", "graph.groups")
    _refuse_unknown(drop, [block.name for block in graph.blocks], "droppable block", "graph.blocks")
    emptied = {name for name, units in keep.items() if not len(units)}
    dropped = [block for block in graph.blocks if block.name in drop or block.group in emptied]
    gone = {name for block in dropped for name in block.groups}
    kept = {
        group.name: () if group.name in gone else _checked(group, keep.get(group.name))
        for group in graph.groups
    }
    widths = {group.name: (group.width, len(kept[group.name])) for group in graph.groups}
    slices = _slices([group for group in graph.groups if group.name not in gone], kept)
    inside = [name for name in slices if any(is_within(name, block.name) for block in dropped)]
    for name in inside:
        del slices[name]
    names = tuple(block.name for block in dropped)
    return SlimmingPlan(kept, slices, widths, graph.model_digest, names, inputs=graph.inputs)


def _refuse_unknown(given: Collection[str], known: Collection[str], kind: str, place: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ModelError(
            f"no {kind} is named {unknown[0]!r}", hint=f"{place} lists them, graph.frozen what must stay"
        )


def is_within(name: str, module: str) -> bool:
    """Tell whether a dotted name is that of `module` or of something in it."""
    return f"{name}.".startswith(f"{module}.")


def _checked(group: PruningGroup, units: Sequence[int] | None) -> tuple[int, ...]:
    if units is None:
        return tuple(range(group.width))
    kept = tuple(sorted(int(unit) for unit in units))
    fault = index_fault(kept, group.width)
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
    stays: dict[tuple[str, int], npt.NDArray[np.bool_]] = {}
    for group in groups:
        gone = np.ones(group.width, dtype=np.bool_)
        gone[list(kept[group.name])] = False
        for member in group.members if gone.any() else ():
            if not is_constant(member.parameter):
                place = (member.parameter, member.dim)
                mask = stays.setdefault(place, np.ones(member.size, dtype=np.bool_))
                mask[member.indices[gone]] = False
    slices: dict[str, dict[int, tuple[int, ...]]] = {}
    for (parameter, dim), mask in stays.items():
        slices.setdefault(parameter, {})[dim] = tuple(np.flatnonzero(mask).tolist())
    return slices


def is_constant(name: str) -> bool:
    """Tell whether `name` is that of a tensor that the model's code makes; it is no part of the model."""
    return name.startswith("<")
