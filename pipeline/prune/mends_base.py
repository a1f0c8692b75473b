"""What a mend is, what is left of every tensor, and the register of functions that find mends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from torch import Tensor, fx

from pipeline.errors import ModelError
from pipeline.graph.capture import Alive, Capture, Mask
from pipeline.graph.flow import Value, describe, origin

Positions = npt.NDArray[np.int64]
Substitute = Literal["split_with_sizes", "index_select", "index_copy", "squeeze"]


@dataclass(frozen=True)
class Mend:
    """A constant of one node of the captured graph that must become another.

    `argument` is its name in the operator's schema. For a placeholder, of a tensor that the model's code makes
    and that is no parameter or buffer, it is "shape".

    `target` names the operator to call instead, where the same one cannot say it: "split_with_sizes" with the
    sizes `after`, "index_select" or "index_copy" with the positions `after`, both along `dim`, or "squeeze" of
    the dimensions `after`.
    """

    node: str
    argument: str
    before: Any
    after: Any
    target: Substitute | None = None
    dim: int | None = None


class Shrunk:
    """What is left of every tensor of a capture, looked up by node."""

    def __init__(self, capture: Capture, alive: Alive) -> None:
        self._values = capture.values
        self._tensors = capture.tensors
        self._alive = alive
        self._known: dict[
            int, tuple[Mask, int]
        ] = {}  # by the labels' `id`: these live as long as the capture

    def values(self, node: fx.Node) -> tuple[Value, ...]:
        """Return what is known of all tensors that a node gives, at full width."""
        value = self._values.get(node.name, ())
        return value if isinstance(value, tuple) else (value,)

    def value(self, node: fx.Node) -> Value:
        """Return what is known of the first of them."""
        return self.values(node)[0]

    def constant(self, node: fx.Node) -> Tensor | None:
        """Return what a buffer or constant of the graph, or a copy of one, holds."""
        return self._tensors.get(origin(node).name)

    def mask(self, value: Value, dim: int) -> Mask:
        """Return which entries along a dimension stay."""
        ids = value.dims[dim]
        return np.ones(value.shape[dim], dtype=np.bool_) if ids is None else self._look_up(value, dim)[0]

    def size(self, value: Value, dim: int) -> int:
        """Return how many entries along a dimension stay."""
        return value.shape[dim] if value.dims[dim] is None else self._look_up(value, dim)[1]

    def shape(self, value: Value) -> tuple[int, ...]:
        """Return what is left of a tensor's shape."""
        return tuple(self.size(value, dim) for dim in range(len(value.shape)))

    def loses(self, node: fx.Node) -> bool:
        """Tell whether any tensor that a node gives gets smaller."""
        return any(
            ids is not None and self._look_up(value, dim)[1] < value.shape[dim]
            for value in self.values(node)
            for dim, ids in enumerate(value.dims)
        )

    def _look_up(self, value: Value, dim: int) -> tuple[Mask, int]:
        ids = value.dims[dim]
        found = self._known.get(id(ids))
        if found is None:
            mask = self._alive.mask(ids, value.shape[dim])
            found = self._known[id(ids)] = mask, int(mask.sum())
        return found


Mender = Callable[[Shrunk, fx.Node, dict[str, Any]], Iterator[Mend]]
MENDERS: dict[str, Mender] = {}


def mender(names: str) -> Callable[[Mender], Mender]:
    """Register a function for these ATen operators ("view", with all its overloads), listed with spaces between.

    It is called with a node that has a shrunken operand or result and the node's arguments by their names in the
    operator's schema, and yields the node's mends.
    """

    def register(function: Mender) -> Mender:
        MENDERS.update(dict.fromkeys(names.split(), function))
        return function

    return register


def changed(node: fx.Node, argument: str, before: Any, after: Any) -> Iterator[Mend]:
    """Yield a mend where there is a change."""
    if before != after:
        yield Mend(node.name, argument, before, after)


def renumbered(mask: Mask, positions: Positions) -> list[int]:
    """Return where those of the positions that stay are once the others are gone."""
    kept = positions[mask[positions]]
    found: list[int] = (np.cumsum(mask)[kept] - 1).tolist()
    return found


def stuck(node: fx.Node, why: str) -> ModelError:
    """Return the error for an operator that cannot run on what is left."""
    return ModelError(
        f"{describe(node)} cannot be slimmed: it {why}", hint="leave the groups that reach it whole (ignore=)"
    )
