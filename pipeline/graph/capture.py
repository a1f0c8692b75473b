"""What a trace knows of every tensor of a model, and what is left of each under a plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor
from torch.export import ExportedProgram

from pipeline.graph.flow import Value
from pipeline.graph.units import FIXED, Ids

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Alive:
    """Which entries stay: one truth value for every unit id."""

    of_unit: Mask

    def mask(self, ids: Ids | None, size: int) -> Mask:
        """Return for each entry along a dimension whether it stays; shape (size,)."""
        if ids is None:
            return np.ones(size, dtype=np.bool_)
        return np.where(ids == FIXED, True, self.of_unit[ids])

    def masks(self, value: Value) -> tuple[Mask, ...]:
        """Return the mask along every dimension of a tensor."""
        return tuple(self.mask(ids, size) for ids, size in zip(value.dims, value.shape, strict=True))

    def shape(self, value: Value) -> tuple[int, ...]:
        """Return a tensor's shape after slimming."""
        return tuple(int(mask.sum()) for mask in self.masks(value))


def constant_name(name: str) -> str:
    """Return how a tensor that the model's code makes is called: it has no name in the model."""
    return f"<{name}>"


@dataclass(frozen=True)
class Capture:
    """A model as an ATen graph at full width, in eval mode, with the units that every tensor carries.

    `values` holds what each node of `program.graph` gives, by the node's name: one `Value`, or a tuple of them;
    for a parameter, buffer or constant the units along its own dimensions. `parameters` maps the placeholders
    of these to their names in the model (tied ones to their first name; constants have a name in brackets),
    `tensors` those of buffers and constants to what they hold.
    `atoms` holds for every label the atoms that it needs, `units` for every group the atoms of its units.
    """

    program: ExportedProgram
    values: Mapping[str, Value | tuple[Value, ...]]
    parameters: Mapping[str, str]
    tensors: Mapping[str, Tensor]
    atoms: Ids
    units: Mapping[str, Ids]

    def alive(self, keep: Mapping[str, Sequence[int]]) -> Alive:
        """Return what stays when the named groups keep these units and all others keep theirs."""
        dead = np.zeros(len(self.atoms) + 1, dtype=np.bool_)  # the last one is that of FIXED
        for group, kept in keep.items():
            gone = np.ones(len(self.units[group]), dtype=np.bool_)
            gone[list(kept)] = False
            dead[self.units[group][gone]] = True
        return Alive(np.logical_not(dead[self.atoms].any(axis=1)))
