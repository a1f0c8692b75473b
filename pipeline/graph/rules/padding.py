"""Padding: over space it changes nothing; constant channels that it adds are units of their own."""

from __future__ import annotations

import numpy as np
from torch import fx

from pipeline.graph.flow import Flow, Value, shape_of
from pipeline.graph.rules.dimensions import first_value, freeze_dims, listed
from pipeline.graph.rules.registry import Arguments, rule
from pipeline.graph.units import Ids

_MIRRORED = [
    f"aten.{kind}_pad{rank}d.default" for kind in ("reflection", "replication") for rank in (1, 2, 3)
]


@rule("aten.pad.default", "aten.constant_pad_nd.default", *_MIRRORED, "aten._pad_circular.default")
def pad(flow: Flow, node: fx.Node, args: Arguments) -> Value:
    """The amounts are (before, after) for the last dimension, then for the one before it, and so on.

    Entries of one constant value can go like any others; negative amounts cut entries off.
    """
    value, (_, amounts, *_) = first_value(flow, args), list(args.values())
    constant = "constant" in str(node.target) or args.get("mode") == "constant"
    dims = list(value.dims)
    for back in range(1, len(amounts) // 2 + 1):
        before, after = amounts[2 * back - 2 : 2 * back]
        ids = dims[-back]
        if ids is None or before == after == 0:
            continue
        if constant:
            dims[-back] = _padded(flow, ids, before, after)
        else:
            freeze_dims(flow, node, [ids], "pads it with a fixed number of channels")
            dims[-back] = None
    return Value(shape_of(node), tuple(dims))


def _padded(flow: Flow, ids: Ids, before: int, after: int) -> Ids:
    ids = ids[max(-before, 0) : len(ids) - max(-after, 0)]
    before, after = max(before, 0), max(after, 0)
    new = listed(flow.units.fresh(before + after), before + after)
    return np.concatenate([new[:before], ids, new[before:]])
