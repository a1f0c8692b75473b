"""Every constant that must change in a captured graph is found, and the graph is exact once they are changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from exactness import TOLERANCE, check
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ModelError
from pipeline.graph import DependencyGraph, trace
from pipeline.prune import SlimmingPlan
from pipeline.prune.graph_form import graph_form
from pipeline.prune.mends import Mend, mends

Keep = Mapping[str, Sequence[int]]


class Around(nn.Module):
    """1x1 convolutions from 3 channels to those of `middle` and from its result to 2; `middle` is what is tested."""

    def __init__(self, middle: Callable[[Tensor], Tensor], width: int, result: int | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 1)
        self.middle = middle
        self.last = nn.Conv2d(result or width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


class Tokens(nn.Module):
    """The same with linear layers over (N, tokens, width)."""

    def __init__(self, middle: Callable[[Tensor], Tensor], width: int, result: int | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(3, width)
        self.middle = middle
        self.last = nn.Linear(result or width, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


MAX = 2**63 - 1  # the end of a slice that goes to the end
IMAGE, TOKENS = torch.randn(2, 3, 4, 4), torch.randn(2, 5, 3)


def traced(net: nn.Module, x: Tensor) -> DependencyGraph:
    torch.manual_seed(0)
    return trace(net.eval(), x)


def found(graph: DependencyGraph, keep: Keep) -> list[Mend]:
    return mends(graph.capture, graph.capture.alive(keep))


def off(net: nn.Module, graph: DependencyGraph, keep: Keep, x: Tensor) -> float:
    """Return by how much the graph form differs from the full model with the removed channels ignored."""
    plan = SlimmingPlan(dict(keep), {}, {}, "")  # type: ignore[arg-type]
    return check(net, graph, plan, graph_form(net, graph.capture, graph.capture.alive(keep)), x)


def assert_mended(net: nn.Module, x: Tensor, keep: Keep, expected: list[tuple[Any, ...]]) -> None:
    """Expect these mends: argument, before, after and, if any, the operator instead."""
    graph = traced(net, x)
    changes = found(graph, keep)
    assert [(one.argument, one.before, one.after, *filter(None, [one.target])) for one in changes] == expected
    assert off(net, graph, keep, x) <= TOLERANCE


# --- sizes ---


def test_view_to_a_fixed_width_follows_the_channels() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), View(-1, 128), nn.Linear(128, 2))
    assert_mended(net, IMAGE, {"0": [1, 4, 5]}, [("size", [-1, 128], [-1, 48])])


class View(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.view(self.shape)


def test_reshape_and_unflatten_into_groups_follow_the_width_of_a_group() -> None:
    def middle(x: Tensor) -> Tensor:
        y = x.reshape(2, 2, 4, 4, 4).transpose(1, 2).reshape(2, -1, 4, 4)
        return y.unflatten(1, (4, 2)).flatten(1, 2)

    expected = [("shape", [2, 2, 4, 4, 4], [2, 2, 3, 4, 4]), ("sizes", [4, 2], [3, 2])]
    assert_mended(Around(middle, 8), IMAGE, {"first": [0, 2, 3]}, expected)


def test_expanded_and_new_tensors_shrink_with_what_they_are_added_to() -> None:
    def middle(x: Tensor) -> Tensor:
        one = x.new_ones(2, 1, 4, 4).expand(-1, 6, -1, -1)
        return x + one + torch.full((1, 6, 1, 1), 0.5) + torch.zeros(6, 1, 1)

    expected = [
        ("size", [-1, 6, -1, -1], [-1, 2, -1, -1]),
        ("size", [1, 6, 1, 1], [1, 2, 1, 1]),
        ("size", [6, 1, 1], [2, 1, 1]),
    ]
    assert_mended(Around(middle, 6), IMAGE, {"first": [0, 5]}, expected)


def test_repeats_of_one_entry_are_as_many_as_stay() -> None:
    def middle(x: Tensor) -> Tensor:
        row = x.mean(1, keepdim=True)
        return x + row.repeat(1, 6, 1, 1) + row.repeat_interleave(6, 1)

    expected = [("repeats", [1, 6, 1, 1], [1, 2, 1, 1]), ("repeats", 6, 2)]
    assert_mended(Around(middle, 6), IMAGE, {"first": [3, 4]}, expected)


def test_repeats_of_several_entries_stay_as_they_are() -> None:
    assert_mended(Around(lambda x: x.repeat(1, 2, 1, 1), 4, 8), IMAGE, {"first": [1, 2]}, [])


def test_the_state_that_a_recurrent_layer_starts_from_shrinks() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru = nn.GRU(3, 6, batch_first=True)
            self.last = nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.gru(x)[0])

    expected = [("size", [1, 2, 6], [1, 2, 2])]
    net = Recurrent()
    (group,) = traced(net, TOKENS).groups
    assert_mended(net, TOKENS, {group.name: [2, 5]}, expected)


def test_squeeze_leaves_a_dimension_of_which_one_entry_is_left() -> None:
    def middle(x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True).squeeze()
        return pooled.squeeze(1)[:, :, None, None]

    expected = [("dim", None, [2, 3], "squeeze"), ("dim", 1, [], "squeeze")]
    assert_mended(Around(middle, 4), IMAGE, {"first": [2]}, expected)
    assert_mended(Around(middle, 4), IMAGE, {"first": [1, 2]}, [])


def test_a_normalised_shape_follows_the_channels() -> None:
    expected = [("normalized_shape", [6], [3]), ("normalized_shape", [6], [3])]
    norms = nn.Sequential(nn.LayerNorm(6), nn.RMSNorm(6))
    assert_mended(Tokens(norms, 6), TOKENS, {"first": [0, 1, 4]}, expected)


# --- groups ---


def test_grouped_layers_have_as_many_groups_as_stay() -> None:
    grouped = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ConvTranspose2d(8, 16, 1, groups=8))
    expected = [("groups", 8, 3), ("groups", 8, 3)]
    assert_mended(Around(grouped, 8, 16), IMAGE, {"first": [0, 3, 7]}, expected)


def test_a_group_norm_loses_groups_or_channels_of_each() -> None:
    net = Around(nn.GroupNorm(4, 8), 8)
    graph = traced(net, IMAGE)
    groups, inside = (next(one for one in graph.groups if one.width == width) for width in (4, 2))
    assert [(one.before, one.after) for one in found(graph, {groups.name: [0, 3]})] == [(4, 2)]
    assert found(graph, {inside.name: [1]}) == []
    for keep in ({groups.name: [0, 3]}, {inside.name: [1]}):
        assert off(net, graph, keep, IMAGE) <= TOLERANCE


def test_unequal_groups_are_refused_with_the_name_of_the_module() -> None:
    graph = traced(Around(nn.GroupNorm(2, 8), 8), IMAGE)
    ids = graph.capture.values["conv2d"].dims[1]  # type: ignore[union-attr]
    alive = graph.capture.alive({})
    alive.of_unit[ids[[3, 5, 6, 7]]] = False  # type: ignore[index]
    with pytest.raises(ModelError, match=r"group_norm.default in middle cannot .* 1 and 3 channels"):
        mends(graph.capture, alive)


def test_attention_keeps_the_scale_of_the_full_head_width() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.last = nn.Linear(3, 24), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).reshape(2, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = functional.scaled_dot_product_attention(q, k, v)
            return self.last(y.transpose(1, 2).reshape(2, 5, 8))

    heads = [("shape", [2, 5, 3, 2, 4], [2, 5, 3, 1, 4]), ("shape", [2, 5, 8], [2, 5, 4])]
    assert_mended(Attention(), TOKENS, {"qkv": [1]}, heads)
    narrower = [
        ("shape", [2, 5, 3, 2, 4], [2, 5, 3, 2, 3]),
        ("scale", None, 0.5),
        ("shape", [2, 5, 8], [2, 5, 6]),
    ]
    assert_mended(Attention(), TOKENS, {"qkv[2]": [0, 1, 3]}, narrower)


# --- parts ---


def beside(part: Callable[[Tensor], Sequence[Tensor]]) -> nn.Module:
    """Two layers side by side, 6 channels each, taken apart again and put together the other way round."""

    class Beside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(12, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            parts = part(torch.cat([self.first(x), self.second(x)], 1))
            return self.last(torch.cat(list(parts)[::-1], 1))

    return Beside()


UNEQUAL: Keep = {"first": [0], "second": [1, 2, 5]}
EQUAL: Keep = {"first": [0, 1], "second": [1, 5]}
NARROWED = [("length", 6, 2), ("start", 6, 2), ("length", 6, 2)]
STRIDED = [("end", 12, 3), ("step", 2, 1), ("start", 1, 3)]


@pytest.mark.parametrize(
    ("part", "keep", "expected"),
    [
        (lambda x: x.chunk(2, 1), EQUAL, []),
        (lambda x: x.chunk(2, 1), UNEQUAL, [("chunks", [6, 6], [1, 3], "split_with_sizes")]),
        (lambda x: x.split(6, 1), EQUAL, [("split_size", 6, 2)]),
        (lambda x: x.split(6, 1), UNEQUAL, [("split_size", [6, 6], [1, 3], "split_with_sizes")]),
        (lambda x: x.split([6, 6], 1), UNEQUAL, [("split_sizes", [6, 6], [1, 3])]),
        (lambda x: x.tensor_split(2, 1), UNEQUAL, [("sections", [6, 6], [1, 3], "split_with_sizes")]),
        (lambda x: x.tensor_split([6], 1), UNEQUAL, [("indices", [6], [1])]),
    ],
)
def test_parts_are_those_that_stay(
    part: Callable[[Tensor], Sequence[Tensor]], keep: Keep, expected: list[tuple[Any, ...]]
) -> None:
    assert_mended(beside(part), IMAGE, keep, expected)


@pytest.mark.parametrize(
    ("slices", "keep", "expected"),
    [
        (lambda x: [x[:, :6], x[:, 6:]], UNEQUAL, [("end", 6, 1), ("start", 6, 1)]),
        (lambda x: [x[:, :-6], x[:, -6:]], UNEQUAL, [("end", -6, -3), ("start", -6, -3)]),
        (lambda x: [x.narrow(1, 0, 6), x.narrow(1, 6, 6)], EQUAL, NARROWED),
        (lambda x: [x[:, ::2], x[:, 1::2]], {"first": [0, 1], "second": [2, 3]}, []),
        (lambda x: [x[:, 0:12:2], x[:, 1:12:2]], {"first": [2, 4], "second": [0, 1]}, STRIDED),
    ],
)  # fmt: skip
def test_slices_are_of_the_entries_that_stay(
    slices: Callable[[Tensor], Sequence[Tensor]], keep: Keep, expected: list[tuple[Any, ...]]
) -> None:
    assert_mended(beside(slices), IMAGE, keep, expected)


def test_entries_at_no_regular_distance_are_listed() -> None:
    def middle(x: Tensor) -> Tensor:
        return torch.cat([x[:, ::2], x[:, 1::2]], 1)

    expected = [("index", [0, 2, 4, 6], [0, 3, 4], "index_select"), ("end", MAX, 3), ("step", 2, 1)]
    assert_mended(Around(middle, 8), IMAGE, {"first": [0, 1, 3, 4, 6]}, expected)


def test_a_part_at_no_regular_distance_that_is_written_to_is_refused() -> None:
    def middle(x: Tensor) -> Tensor:
        x[:, ::2].mul_(2)
        return x

    graph = traced(Around(middle, 8), IMAGE)
    assert found(graph, {"first": [0, 1, 2, 3]}) == []
    with pytest.raises(
        ModelError, match=r"slice.Tensor cannot be slimmed: it cuts out a part that is written"
    ):
        found(graph, {"first": [0, 1, 3, 4, 6]})


def test_a_part_is_written_back_to_where_it_belongs() -> None:
    def middle(x: Tensor) -> Tensor:
        return torch.slice_scatter(x, x[:, ::2] * 2, 1, 0, 8, 2)

    regular = [("end", MAX, 2), ("step", 2, 1), ("end", 8, 2), ("step", 2, 1)]
    assert_mended(Around(middle, 8), IMAGE, {"first": [0, 2, 3, 5]}, regular)
    listed = [("index", [0, 2, 4, 6], [0, 3, 4], name) for name in ("index_select", "index_copy")]
    assert_mended(Around(middle, 8), IMAGE, {"first": [0, 1, 3, 4, 6]}, listed)


# --- moves ---


def test_constant_indices_point_to_where_entries_are_now() -> None:
    order = torch.tensor([3, 1, 0, 5, 4, 2])
    expected = [("shape", [6], [4]), ("index", order.tolist(), [2, 1, 0, 3], "index_select")]
    assert_mended(Around(lambda x: x[:, order], 6), IMAGE, {"first": [0, 1, 3, 5]}, expected)
    assert_mended(Around(lambda x: x.index_select(1, order), 6), IMAGE, {"first": [0, 1, 3, 5]}, expected)


def test_a_roll_is_by_the_entries_that_stay() -> None:
    expected = [("shifts", [2], [1]), ("shifts", [-3], [-2])]
    net = Around(lambda x: x.roll(2, 1).roll(-3, 1), 6)
    assert_mended(net, IMAGE, {"first": [0, 1, 4]}, expected)


def test_padding_channels_are_as_many_as_what_they_are_added_to_keeps() -> None:
    class Shortcut(nn.Module):
        """A narrower shortcut, padded by two channels in front and behind."""

        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.last = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.last(self.second(x) + functional.pad(x, (0, 0, 0, 0, 2, 2)))

    expected = [("pad", [0, 0, 0, 0, 2, 2], [0, 0, 0, 0, 1, 2])]
    assert_mended(Shortcut(), IMAGE, {"first": [0, 3], "second": [1, 2, 3]}, expected)


def test_a_tensor_that_the_code_makes_is_sliced() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.linspace(1.0, 2.0, 6).reshape(6, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    assert_mended(Around(Scaled(), 6), IMAGE, {"first": [1, 5]}, [("shape", [6, 1, 1], [2, 1, 1])])


def test_where_nothing_goes_nothing_changes() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), View(-1, 128), nn.Linear(128, 2))
    assert found(traced(net, IMAGE), {}) == []
