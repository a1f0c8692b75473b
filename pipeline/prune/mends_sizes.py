"""Mends of sizes and numbers: shapes of views and of new tensors, repeats, groups, the scale of an attention."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import fx

from pipeline.graph.capture import Mask
from pipeline.prune.mends_base import Mend, Shrunk, changed, mender, stuck

Arguments = dict[str, Any]


@mender("view reshape _unsafe_view expand broadcast_to")
@mender("zeros ones full empty rand randn new_zeros new_ones new_full new_empty")
def _sizes(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    """The result's own shape; what is left to be worked out (-1) stays so."""
    name = "shape" if "shape" in args else "size"
    before = list(args[name])
    yield from changed(node, name, before, _filled(before, shrunk.shape(shrunk.value(node))))


@mender("unflatten")
def _unflatten(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    before, shape = list(args["sizes"]), shrunk.shape(shrunk.value(node))
    start = int(args["dim"]) % (len(shape) + 1 - len(before))
    yield from changed(node, "sizes", before, _filled(before, shape[start : start + len(before)]))


def _filled(before: list[int], shape: tuple[int, ...]) -> list[int]:
    return [old if old == -1 else new for old, new in zip(before, shape, strict=True)]


@mender("repeat tile")
def _repeat(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    """Copies of a single entry may go one by one; those of several go with what they are copies of."""
    name = "repeats" if "repeats" in args else "dims"
    before, shape = list(args[name]), shrunk.shape(shrunk.value(node))
    source = shrunk.shape(shrunk.value(args["self"]))
    source = (1,) * (len(shape) - len(source)) + source
    rest = len(shape) - len(before)
    pairs = zip(before, shape[rest:], source[rest:], strict=True)
    yield from changed(node, name, before, [_times(node, *each) for each in pairs])


@mender("repeat_interleave")
def _repeat_each(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    dim, before = int(args["dim"] or 0), args["repeats"]
    width = shrunk.size(shrunk.value(node), dim)
    source = shrunk.size(shrunk.value(args["self"]), dim)
    yield from changed(node, "repeats", before, _times(node, before, width, source))
    if args["output_size"] is not None:
        yield from changed(node, "output_size", args["output_size"], width)


def _times(node: fx.Node, before: int, width: int, source: int) -> int:
    """Return how often `source` entries are repeated to make `width` of them."""
    if source == 0:
        return before
    if width % source:
        raise stuck(node, f"cannot make {width} copies of {source} entries")
    return width // source


@mender("squeeze squeeze_")
def _squeeze(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    """A dimension of which a single entry is left would vanish as well."""
    value = shrunk.value(args["self"])
    given, rank = args.get("dim"), len(value.shape)
    several = [given] if isinstance(given, int) else range(rank) if given is None else given
    named = [dim % max(rank, 1) for dim in several]
    vanish = [dim for dim in named if value.shape[dim] == 1]
    if any(dim not in vanish and shrunk.size(value, dim) == 1 for dim in named):
        yield Mend(node.name, "dim", given, vanish, "squeeze")


@mender("layer_norm rms_norm native_layer_norm _fused_rms_norm")
def _normalised(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    before = list(args["normalized_shape"])
    shape = shrunk.shape(shrunk.value(args["input"]))
    yield from changed(node, "normalized_shape", before, list(shape[len(shape) - len(before) :]))


@mender("scaled_dot_product_attention")
def _attention(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    """The scale is that of the full head width."""
    query = shrunk.value(args["query"])
    if args["scale"] is None and shrunk.size(query, -1) < query.shape[-1]:
        yield Mend(node.name, "scale", None, 1.0 / math.sqrt(query.shape[-1]))


# --- groups ---


@mender("channel_shuffle native_channel_shuffle group_norm")
def _channel_groups(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    """Channels (N, C, ...)."""
    name = "groups" if "groups" in args else "num_groups"
    mask = shrunk.mask(shrunk.value(node.all_input_nodes[0]), 1)
    yield from changed(node, name, args[name], _left(node, mask, args[name]))


@mender("native_group_norm")
def _native_group_norm(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    value = shrunk.value(args["input"])
    yield from changed(node, "C", args["C"], shrunk.size(value, 1))
    yield from changed(node, "group", args["group"], _left(node, shrunk.mask(value, 1), args["group"]))


@mender("conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution")
def _convolution_groups(shrunk: Shrunk, node: fx.Node, args: Arguments) -> Iterator[Mend]:
    """Channels of the input and of the result; each group keeps equally many of both."""
    before = int(args["groups"])
    if before == 1:
        return
    value, result = shrunk.value(args["input"]), shrunk.value(node)
    channels = len(value.shape) + 1 - len(shrunk.value(args["weight"]).shape)
    after = _left(node, shrunk.mask(value, channels), before)
    if after != _left(node, shrunk.mask(result, channels), before):
        raise stuck(node, "keeps groups of its input that its result has not")
    yield from changed(node, "groups", before, after)


def _left(node: fx.Node, mask: Mask, groups: int) -> int:
    """Return how many groups of channels are left, all of one size."""
    sizes = set((each := mask.reshape(groups, -1).sum(1))[each > 0].tolist())
    if len(sizes) > 1:
        raise stuck(node, f"is left with groups of {' and '.join(map(str, sorted(sizes)))} channels")
    return int((each > 0).sum())
