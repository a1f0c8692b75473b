"""Mends of operators that pick, part or move entries along a dimension: splits, slices, indices, pads, rolls."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import accumulate, product
from typing import Any

import numpy as np
from torch import fx

from pipeline.graph.flow import operator_name
from pipeline.prune.mends_base import Mend, Shrunk, changed, mender, renumbered, stuck

Arguments = dict[str, Any]
_VIEWS = {
    "alias", "as_strided", "chunk", "detach", "diagonal", "expand", "flatten", "movedim", "narrow", "permute",
    "reshape", "select", "slice", "split", "split_with_sizes", "squeeze", "swapaxes", "t", "transpose", "unbind",
    "unflatten", "unsqueeze", "view", "getitem",
}  # fmt: skip


@mender("chunk unsafe_chunk")
def _chunk(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    """Where the parts that stay are not those that `chunk` would cut, they are given by their sizes."""
    sizes = _part_sizes(shrunk, node, args)
    if _consecutive(sum(sizes), math.ceil(sum(sizes) / args["chunks"])) != sizes:
        yield _split_instead(shrunk, node, "chunks", sizes, args)


@mender("split unsafe_split split_with_sizes unsafe_split_with_sizes")
def _split(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    """`split_size` is one number for all parts but the last, or a list."""
    sizes, name = _part_sizes(shrunk, node, args), list(args)[1]
    given = args[name]
    if not isinstance(given, int):
        yield from changed(node, name, list(given), sizes)
    elif _consecutive(sum(sizes), sizes[0]) == sizes:
        yield from changed(node, name, given, sizes[0] if len(sizes) > 1 else max(given, sizes[0]))
    else:
        yield _split_instead(shrunk, node, name, sizes, args)


@mender("tensor_split")
def _tensor_split(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    """`indices` are where parts begin; `sections` are as equal as can be, the longer ones first."""
    sizes = _part_sizes(shrunk, node, args)
    if "indices" in args:
        yield from changed(node, "indices", list(args["indices"]), list(accumulate(sizes[:-1])))
        return
    each, more = divmod(sum(sizes), args["sections"])
    if sizes != [each + (part < more) for part in range(len(sizes))]:
        yield _split_instead(shrunk, node, "sections", sizes, args)


def _part_sizes(shrunk: Shrunk, node: fx.Node, args: Arguments) -> list[int]:
    return [shrunk.size(value, args["dim"]) for value in shrunk.values(node)]


def _consecutive(total: int, size: int) -> list[int]:
    """Return the sizes of parts of one size, the rest being the last."""
    return [min(size, total - start) for start in range(0, total, max(size, 1))]


def _split_instead(shrunk: Shrunk, node: fx.Node, name: str, sizes: list[int], args: Arguments) -> Mend:
    dim = int(args["dim"])
    before = [value.shape[dim] for value in shrunk.values(node)]
    return Mend(node.name, name, before, sizes, "split_with_sizes", dim)


# --- slices ---


@mender("slice slice_copy")
def _slice(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    found = list(_sliced(shrunk, node, args, "index_select"))
    if any(each.target for each in found) and _is_written(node):
        raise stuck(node, "cuts out a part that is written to in place and is no regular slice any more")
    yield from found


@mender("slice_scatter")
def _slice_scatter(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    yield from _sliced(shrunk, node, args, "index_copy")


def _sliced(shrunk: Shrunk, node: fx.Node, args: Arguments, otherwise: Any) -> Iterator[Mend]:
    """Entries from `start` to `end` by `step`; where those that stay are at no regular distance, a list of them."""
    source = shrunk.value(args["self"])
    dim = int(args["dim"]) % len(source.shape)
    given, left = slice(args["start"], args["end"], args["step"]), shrunk.size(source, dim)
    chosen = range(source.shape[dim])[given]
    kept = renumbered(shrunk.mask(source, dim), np.array(chosen, dtype=np.int64))
    if list(range(left)[given]) == kept:
        return
    run = _as_slice(kept, left, given)
    if run is None:
        yield Mend(node.name, "index", list(chosen), kept, otherwise, dim)
        return
    for name in ("start", "end", "step"):
        yield from changed(node, name, args[name], getattr(run, name.replace("end", "stop")))


def _as_slice(kept: Sequence[int], left: int, given: slice) -> slice | None:
    """Return positions out of `left` as a slice, with the bounds of `given` where they still hold.

    What was counted from the end still is.
    """
    steps = set(np.diff(np.array(kept)).tolist())
    if len(steps) > 1:
        return None
    step = steps.pop() if steps else given.step
    first, last = (kept[0], kept[-1] + 1) if kept else (0, 0)
    starts = (given.start, first - left if (given.start or 0) < 0 else first, first)
    stops = (given.stop, last - left if (given.stop or 0) < 0 else last, last)
    for start, stop in product(starts, stops):
        if list(range(left)[start:stop:step]) == kept:
            return slice(start, stop, step)
    return None


def _is_written(node: fx.Node) -> bool:
    """Tell whether a tensor, or a view of it, is changed in place."""
    for user in node.users:
        name = operator_name(user) or str(getattr(user.target, "__name__", ""))
        schema = getattr(user.target, "_schema", None)
        if schema is not None and schema.is_mutable and user.args and user.args[0] is node:
            return True
        if name in _VIEWS and _is_written(user):
            return True
    return False


@mender("narrow narrow_copy")
def _narrow(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    source = shrunk.value(args["self"])
    dim = int(args["dim"]) % len(source.shape)
    start, mask = int(args["start"]) % source.shape[dim], shrunk.mask(source, dim)
    if not mask.all():
        yield from changed(node, "start", args["start"], int(mask[:start].sum()))
        length = int(mask[start : start + args["length"]].sum())
        yield from changed(node, "length", args["length"], length)


# --- positions ---


@mender("select select_copy")
def _select(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    """One position, which must still be there."""
    source = shrunk.value(args["self"])
    dim = int(args["dim"]) % len(source.shape)
    mask = shrunk.mask(source, dim)
    index = int(args["index"]) % source.shape[dim]
    if not mask[index]:
        raise stuck(node, f"picks number {index}, which is gone")
    after = int(mask[:index].sum())
    yield from changed(node, "index", args["index"], after - int(mask.sum()) if args["index"] < 0 else after)


@mender("index index_select")
def _index(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    """Positions along a dimension of which some are gone; they were known when the model was captured."""
    source = shrunk.value(args["self"])
    given = (
        args["indices"] if "indices" in args else [None] * (args["dim"] % len(source.shape)) + [args["index"]]
    )
    for dim, index in enumerate(given):
        if index is None or shrunk.size(source, dim) == source.shape[dim]:
            continue
        known = shrunk.constant(index)
        if known is None or known.ndim > 1:
            raise stuck(node, "picks positions that are not known")
        positions = known.detach().cpu().numpy().reshape(-1) % source.shape[dim]
        kept = renumbered(shrunk.mask(source, dim), positions)
        yield Mend(node.name, "index", positions.tolist(), kept, "index_select", dim)


@mender("roll")
def _roll(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    """Those of the last `shift` entries that stay come first."""
    source = shrunk.value(args["self"])
    before = [args["shifts"]] if isinstance(args["shifts"], int) else list(args["shifts"])
    after = []
    for dim, shift in zip(args["dims"], before, strict=True):
        mask = shrunk.mask(source, dim)
        moved = abs(shift) % len(mask)
        ends = mask[len(mask) - moved :] if shift > 0 else mask[:moved]
        after.append(shift if mask.all() else int(ends.sum()) * (1 if shift > 0 else -1))
    yield from changed(node, "shifts", before, after)


@mender("pad constant_pad_nd")
def _pad(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    """What is added to a dimension in front and behind; where it is cut (negative), what is taken away."""
    source, result, before = shrunk.value(args["self"]), shrunk.value(node), list(args["pad"])
    after = list(before)
    for place, amount in enumerate(before):
        mask = shrunk.mask(result if amount > 0 else source, len(source.shape) - 1 - place // 2)
        ends = mask[: abs(amount)] if place % 2 == 0 else mask[len(mask) - abs(amount) :]
        after[place] = int(ends.sum()) * (1 if amount > 0 else -1)
    yield from changed(node, "pad", before, after)
