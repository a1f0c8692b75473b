"""What many rules do with single dimensions: freeze, replace, look up by position."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import fx

from pipeline.graph.flow import Flow, Value, describe, fixed_value
from pipeline.graph.rules.registry import Arguments
from pipeline.graph.units import FIXED, Ids


def first_value(flow: Flow, args: Arguments) -> Value:
    """Return the value of an operator's first argument, whatever its schema calls it."""
    return flow.value(next(iter(args.values())))


def freeze_dims(flow: Flow, node: fx.Node, dims: Iterable[Ids | None], what: str) -> None:
    """Freeze the units along these dimensions; the reason is the operator and `what` it does with them."""
    for ids in dims:
        if ids is not None:
            flow.units.freeze(ids, f"{describe(node)} {what}")


def with_dim(value: Value, shape: tuple[int, ...], dim: int, ids: Ids | None) -> Value:
    """Return a value that differs in one dimension (and in shape)."""
    return Value(shape, (*value.dims[:dim], ids, *value.dims[dim + 1 :]))


def some(ids: Ids | None) -> Ids | None:
    """Return `None` where no entry of a dimension is a unit."""
    return None if ids is None or bool((ids == FIXED).all()) else ids


def listed(ids: Ids | None, size: int) -> Ids:
    """Return one label an entry, `FIXED` where the dimension carries no units."""
    return np.full(size, FIXED, dtype=np.int64) if ids is None else ids


def created(flow: Flow, shape: tuple[int, ...]) -> Value:
    """Return a tensor all of whose entries are alike: any of them may go, since its size is a mere number."""
    return Value(shape, tuple(flow.units.fresh(size) for size in shape))


def chosen_dims(given: Any, rank: int) -> list[int]:
    """Return which dimensions an argument `dim` means: one, several, or all where it is empty or missing."""
    several = [given] if isinstance(given, int) else list(given or range(rank))
    return [int(dim) % max(rank, 1) for dim in several]


def fixed_results(node: fx.Node) -> tuple[Value, ...]:
    """Return the results of an operator that gives several, as of fixed size."""
    values = fixed_value(node.meta["val"])
    return values if isinstance(values, tuple) else (values,)
