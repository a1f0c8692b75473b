from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rule_cases import IMAGE, around, assert_slims_exactly, entries, reason, widths
from torch import Tensor

from pipeline.graph import trace


@pytest.mark.parametrize(
    ("part", "taken"),
    [
        (lambda x: x[:, 2:6], [2, 3, 4, 5]),
        (lambda x: x[:, -3:], [5, 6, 7]),
        (lambda x: x[:, 1::2], [1, 3, 5, 7]),
        (lambda x: x.narrow(1, 3, 2), [3, 4]),
        (lambda x: x.narrow(1, -4, 3), [4, 5, 6]),
        (lambda x: x.chunk(3, 1)[1], [3, 4, 5]),
        (lambda x: x.split(5, 1)[1], [5, 6, 7]),
        (lambda x: x.split([2, 5, 1], 1)[1], [2, 3, 4, 5, 6]),
        (lambda x: x.tensor_split(3, 1)[1], [3, 4, 5]),
        (lambda x: x.tensor_split((3, 4), 1)[2], [4, 5, 6, 7]),
    ],
)
def test_part_of_the_channels_is_followed(part: Callable[[Tensor], Tensor], taken: list[int]) -> None:
    graph = assert_slims_exactly(around(part, taken=len(taken)), IMAGE)
    consumed = {
        index: entries(graph, group.name, "0.weight", 0)[unit][0]
        for group in graph.groups
        if "2" in group.consumers
        for unit, (index,) in enumerate(entries(graph, group.name, "2.weight", 1))
    }
    assert consumed == dict(enumerate(taken))


@pytest.mark.parametrize(
    "part",
    [
        lambda x: x[:, :, ::2, 1:-1],
        lambda x: x.narrow(3, 1, 4),
        lambda x: x.chunk(2, 2)[0],
        lambda x: x.select(2, 0).unsqueeze(2),
        lambda x: torch.stack(x.unbind(3)[:4], 3),
        lambda x: x.diagonal(0, 2, 3).unsqueeze(2),
    ],
)
def test_part_of_space_passes_channels_on(part: Callable[[Tensor], Tensor]) -> None:
    assert widths(assert_slims_exactly(around(part), IMAGE, seeds=1)) == {"0": 8}


def test_halves_that_meet_again_are_the_same_units() -> None:
    def gate(x: Tensor) -> Tensor:
        first, second = x.chunk(2, 1)
        return first * second.sigmoid()

    graph = assert_slims_exactly(around(gate, taken=4), IMAGE)
    assert entries(graph, "0", "0.weight", 0) == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_parts_in_another_order_keep_their_units() -> None:
    graph = assert_slims_exactly(around(lambda x: torch.cat([x[:, 4:], x[:, :4]], 1)), IMAGE)
    found = {
        entries(graph, group.name, "0.weight", 0)[unit][0]: index
        for group in graph.groups
        for unit, (index,) in enumerate(entries(graph, group.name, "2.weight", 1))
    }
    assert found == {channel: (channel + 4) % 8 for channel in range(8)}


@pytest.mark.parametrize(
    ("pick", "what"),
    [
        (lambda x: x * x[:, 3:4] * x[:, 3].unsqueeze(1), "aten.select.int in 1 picks one of it by number"),
        (lambda x: x * sum(x.unbind(1)).unsqueeze(1), "aten.unbind.int in 1 takes its entries apart"),
        (lambda x: x.diagonal(0, 1, 3).unsqueeze(1).mT, "aten.diagonal.default in 1 takes its diagonal"),
    ],
)
def test_channels_picked_by_number_are_frozen(pick: Callable[[Tensor], Tensor], what: str) -> None:
    graph = trace(around(pick, taken=8 if "diagonal" not in what else 1), IMAGE)
    assert widths(graph) == {}
    assert reason(graph, "0") == what


def test_replaced_channels_go_with_their_replacement() -> None:
    def replace(x: Tensor) -> Tensor:
        return torch.slice_scatter(x, x[:, :3].relu(), 1, 4, 7)

    graph = assert_slims_exactly(around(replace), IMAGE)
    assert sum(widths(graph).values()) == 5


def test_replaced_positions_leave_channels_alone() -> None:
    def replace(x: Tensor) -> Tensor:
        x = torch.slice_scatter(x, x.relu()[..., :3], 3, 2, 5)
        return torch.select_scatter(x, x.mean(2), 2, 1)

    assert widths(assert_slims_exactly(around(replace), IMAGE)) == {"0": 8}


def test_channels_written_in_place_are_followed() -> None:
    def write(x: Tensor) -> Tensor:
        y = x.clone()
        y[:, 2:5] = x[:, :3]
        return y

    graph = assert_slims_exactly(around(write), IMAGE)
    assert sum(widths(graph).values()) < 8
