from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rule_cases import IMAGE, Call, around, assert_slims_exactly, entries, reason, widths
from torch import Tensor, nn

from pipeline.graph import trace

ORDER = [3, 1, 6, 0, 7, 2, 5, 4]


class Reordered(nn.Module):
    def __init__(self, pick: Callable[[Tensor, Tensor], Tensor], order: list[int] = ORDER) -> None:
        super().__init__()
        self.pick = pick
        self.register_buffer("order", torch.tensor(order))

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(x, self.order)


@pytest.mark.parametrize(
    "pick",
    [lambda x, order: x[:, order], lambda x, order: x.index_select(1, order), lambda x, _: x[:, ORDER]],
)
def test_channels_picked_by_a_constant_are_followed(pick: Callable[[Tensor, Tensor], Tensor]) -> None:
    graph = assert_slims_exactly(around(Reordered(pick)), IMAGE)
    assert entries(graph, "0", "2.weight", 1) == [[ORDER.index(unit)] for unit in range(8)]


def test_channel_picked_twice_goes_in_both_places_and_the_index_with_it() -> None:
    graph = assert_slims_exactly(
        around(Reordered(lambda x, order: x[:, order], [1, 0, 1, 0]), taken=4), IMAGE
    )
    (group,) = [group for group in graph.groups if "2" in group.consumers]
    assert entries(graph, group.name, "2.weight", 1) == [[1, 3], [0, 2]]
    assert entries(graph, group.name, "1.order", 0) == [[1, 3], [0, 2]]


@pytest.mark.parametrize(
    "pick",
    [
        lambda x: x[:, :, [0, 3, 5]],
        lambda x: x.index_select(3, torch.arange(4)),
        lambda x: x[..., torch.tensor([[0, 1], [2, 3]])].mean(-1),
        lambda x: x[:, :, torch.arange(8), torch.arange(8)].unsqueeze(2),
        lambda x: x.flatten(2).gather(2, x.flatten(2).argsort(2)).view(x.shape),
        lambda x: torch.take_along_dim(x, x.argsort(3), 3),
    ],
)
def test_picking_positions_leaves_channels_alone(pick: Callable[[Tensor], Tensor]) -> None:
    assert widths(assert_slims_exactly(around(pick), IMAGE, seeds=1)) == {"0": 8}


@pytest.mark.parametrize(
    ("pick", "what"),
    [
        (lambda x: x[:, torch.arange(8)], "picks some of it by number"),
        (lambda x: x[:, torch.arange(8), torch.arange(8)].unsqueeze(-1), "picks some of it by number"),
        (lambda x: x.gather(1, x.argsort(2)), "picks some of it by number"),
        (lambda x: torch.take(x, torch.arange(64)).view(1, 1, 8, 8) * x, "has no pruning rule"),
    ],
)
def test_channels_picked_by_computed_numbers_are_frozen(pick: Callable[[Tensor], Tensor], what: str) -> None:
    graph = trace(around(pick), IMAGE)
    assert widths(graph) == {}
    assert what in reason(graph, "0")


def test_table_of_relative_positions_has_a_column_for_every_head() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(6, 36), nn.Linear(12, 6)
            self.table = nn.Parameter(torch.randn(9, 3))
            places = torch.arange(5)
            self.register_buffer("index", (places[:, None] - places[None] + 4))

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = self.qkv(x).reshape(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
            bias = self.table[self.index.view(-1)].view(5, 5, -1).permute(2, 0, 1)
            scores = (q * 0.5 @ k.transpose(-2, -1) + bias.contiguous().unsqueeze(0)).softmax(-1)
            return self.out((scores @ v).transpose(1, 2).reshape(2, 5, -1))

    graph = assert_slims_exactly(Attention(), torch.zeros(2, 5, 6))
    heads = next(group for group in graph.groups if group.granularity == "head")
    assert entries(graph, heads.name, "table", 1) == [[0], [1], [2]]


def with_rows(x: Tensor, rows: list[int], values: Tensor) -> Tensor:
    x[:, :, rows] = values
    return x


@pytest.mark.parametrize(
    "write",
    [
        lambda x: x.scatter(3, x.argsort(3), x),
        lambda x: x.scatter_add(3, x.argsort(3), x.relu()),
        lambda x: x.index_add(2, torch.arange(3), x[:, :, :3].relu()),
        lambda x: x.index_fill(3, torch.tensor([1, 2]), 0.5),
        lambda x: with_rows(x.relu(), [0, 2], x.mean((2, 3), keepdim=True)),
    ],
)
def test_writing_to_positions_leaves_channels_alone(write: Callable[[Tensor], Tensor]) -> None:
    assert widths(trace(around(write), IMAGE)) == {"0": 8}


def test_writing_to_channels_by_number_freezes_them() -> None:
    graph = trace(around(Call(lambda x: x.index_fill(1, torch.tensor([1, 2]), 0.5))), IMAGE)
    assert reason(graph, "0") == "aten.index_fill.int_Scalar in 1 writes to some of it by number"


def test_values_picked_by_a_mask_freeze_what_they_come_from() -> None:
    def clear(x: Tensor) -> Tensor:
        x = x.clone()
        x[x < 0] = 0
        return x

    graph = trace(around(clear), IMAGE)
    assert widths(graph) == {}
    assert "by its values" in reason(graph, "0")
