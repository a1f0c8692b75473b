from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rule_cases import IMAGE, Call, around, assert_slims_exactly, entries, reason, widths
from torch import Tensor, nn
from torch.nn import functional

from pipeline.graph import trace


def test_pixel_shuffle_takes_r_times_r_entries_for_a_channel() -> None:
    graph = assert_slims_exactly(around(nn.PixelShuffle(2), taken=3, made=12), IMAGE)
    assert widths(graph) == {"0": 3}
    assert entries(graph, "0", "0.weight", 0) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


def test_pixel_unshuffle_gives_r_times_r_entries_for_a_channel() -> None:
    graph = assert_slims_exactly(around(nn.PixelUnshuffle(2), taken=32), IMAGE)
    assert entries(graph, "0", "2.weight", 1)[1] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    "shuffle", [nn.ChannelShuffle(2), Call(lambda x: x.unflatten(1, (2, 4)).mT.flatten(1, 2))]
)
def test_channel_shuffle_keeps_its_groups_alike(shuffle: nn.Module) -> None:
    if isinstance(shuffle, Call):
        shuffle = Call(lambda x: x.unflatten(1, (2, 4)).transpose(1, 2).flatten(1, 2))
    graph = assert_slims_exactly(around(shuffle), IMAGE)
    assert sorted(widths(graph).values()) == [2, 4]
    inside = next(group for group in graph.groups if group.width == 4)
    assert entries(graph, inside.name, "0.weight", 0) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert entries(graph, inside.name, "2.weight", 1) == [[0, 1], [2, 3], [4, 5], [6, 7]]


@pytest.mark.parametrize(
    ("move", "places"),
    [
        (lambda x: x.flip(1), [7, 6, 5, 4, 3, 2, 1, 0]),
        (lambda x: x.flip((-1, 2)), [0, 1, 2, 3, 4, 5, 6, 7]),
        (lambda x: x.fliplr(), [7, 6, 5, 4, 3, 2, 1, 0]),
        (lambda x: x.roll(2, 1), [2, 3, 4, 5, 6, 7, 0, 1]),
        (lambda x: x.roll((-3, 1), (1, 3)), [5, 6, 7, 0, 1, 2, 3, 4]),
        (lambda x: x.roll(1, -1), [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_channels_that_change_places_are_followed(
    move: Callable[[Tensor], Tensor], places: list[int]
) -> None:
    graph = assert_slims_exactly(around(move), IMAGE)
    assert entries(graph, "0", "2.weight", 1) == [[place] for place in places]


def test_roll_of_all_dimensions_as_one_freezes_them() -> None:
    graph = trace(around(lambda x: x.roll(3)), IMAGE)
    assert reason(graph, "0") == "aten.roll.default in 1 takes all dimensions as one"


@pytest.mark.parametrize(
    ("copies", "second"),
    [
        (lambda x: x.repeat(1, 2, 1, 1), [1, 9]),
        (lambda x: x.tile((2, 1, 1)), [1, 9]),
        (lambda x: x.repeat_interleave(2, 1), [2, 3]),
    ],
)
def test_repeated_channels_go_together(copies: Callable[[Tensor], Tensor], second: list[int]) -> None:
    graph = assert_slims_exactly(around(copies, taken=16), IMAGE)
    assert entries(graph, "0", "2.weight", 1)[1] == second


@pytest.mark.parametrize(
    "copies",
    [
        lambda y: y.repeat(1, 8, 1, 1),
        lambda y: y.repeat_interleave(8, 1),
        lambda y: y.squeeze(1).repeat(8, 1, 1, 1).movedim(0, 1),
        lambda y: y.tile((1, 8, 1, 1)),
    ],
)
def test_as_many_copies_of_one_channel_are_made_as_stay_of_those_it_meets(
    copies: Callable[[Tensor], Tensor],
) -> None:
    graph = assert_slims_exactly(around(lambda x: x * copies(x.mean(1, keepdim=True))), IMAGE)
    assert widths(graph) == {"0": 8}


@pytest.mark.parametrize("gate", [nn.GLU(1), Call(lambda x: functional.glu(x.movedim(1, -1)).movedim(-1, 1))])
def test_gate_goes_with_what_it_gates(gate: nn.Module) -> None:
    graph = assert_slims_exactly(around(gate, taken=4), IMAGE)
    assert widths(graph) == {"0": 4}
    assert entries(graph, "0", "0.weight", 0) == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_windows_of_an_image_and_back_pass_channels_on() -> None:
    def partition(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.roll((-2, -2), (2, 3)).view(batch, channels, height // 4, 4, width // 4, 4)
        x = x.permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, channels)
        x = (x * x.mean(1, keepdim=True)).view(batch, height // 4, width // 4, 4, 4, channels)
        return x.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height, width)

    assert widths(assert_slims_exactly(around(partition), IMAGE)) == {"0": 8}


def test_heads_shared_by_several_queries_go_with_all_of_them() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.kv, self.out = nn.Linear(6, 16), nn.Linear(6, 16), nn.Linear(16, 6)

        def forward(self, x: Tensor) -> Tensor:
            q = self.q(x).unflatten(-1, (4, 4)).transpose(1, 2)
            k, v = self.kv(x).unflatten(-1, (4, 4)).transpose(1, 2).split(2, 1)
            k, v = (one.repeat_interleave(2, 1) for one in (k, v))
            return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    assert_slims_exactly(Shared(), torch.zeros(2, 5, 6))
