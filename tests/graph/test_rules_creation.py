from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rule_cases import IMAGE, around, assert_slims_exactly, reason, widths
from torch import Tensor

from pipeline.graph import trace


@pytest.mark.parametrize(
    "made",
    [
        lambda x: torch.zeros(2, 8, 8, 8),
        lambda x: torch.ones(8, 1, 1),
        lambda x: torch.full((1, 8, 1, 1), 0.5),
        lambda x: x.new_zeros(x.shape),
        lambda x: x.new_ones(1, x.shape[1], 1, 1),
        lambda x: x.new_full((8, 8, 8), 2.0),
        torch.zeros_like,
        lambda x: torch.ones_like(x).mul(3),
        lambda x: torch.full_like(x, 0.1),
    ],
)
def test_tensor_of_one_value_shrinks_with_what_it_meets(made: Callable[[Tensor], Tensor]) -> None:
    assert widths(assert_slims_exactly(around(lambda x: x * (made(x) + 1.0)), IMAGE)) == {"0": 8}


def test_part_that_is_filled_with_something_else_keeps_its_place() -> None:
    def fill(x: Tensor) -> Tensor:
        mask = torch.zeros(1, 8, 8, 8)
        mask[:, 2:5] = 1.0
        mask[:, :, 3:] += 0.5
        return x * mask

    assert sum(widths(assert_slims_exactly(around(fill), IMAGE)).values()) == 8


def test_channels_copied_into_a_tensor_of_zeros_are_those_channels() -> None:
    def copy(x: Tensor) -> Tensor:
        joined = torch.zeros(x.shape[0], 16, 8, 8)
        joined[:, :8] = x
        joined[:, 8:] = x.relu()
        return joined

    assert widths(assert_slims_exactly(around(copy, taken=16), IMAGE)) == {"0": 8}


@pytest.mark.parametrize(
    "made",
    [
        lambda x: torch.arange(8.0).view(1, 8, 1, 1),
        lambda x: torch.linspace(0, 1, 8).view(8, 1, 1),
        lambda x: torch.eye(8).view(1, 8, 8, 1),
        lambda x: torch.hann_window(8).view(8, 1, 1),
        lambda x: torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")[0].view(8, 8, 1),
    ],
)
def test_numbered_entries_freeze_the_channels_they_meet(made: Callable[[Tensor], Tensor]) -> None:
    graph = trace(around(lambda x: x * made(x)), IMAGE)
    assert widths(graph) == {}
    assert "combines it with a tensor of fixed width" in reason(graph, "0")


def test_numbered_positions_leave_channels_alone() -> None:
    def places(x: Tensor) -> Tensor:
        rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="xy")
        return x + rows * 0.1 + columns

    assert widths(assert_slims_exactly(around(places), IMAGE)) == {"0": 8}


def test_triangle_of_positions_leaves_channels_alone_and_one_of_channels_freezes_them() -> None:
    assert widths(assert_slims_exactly(around(lambda x: x.tril() + x.triu(1)), IMAGE)) == {"0": 8}
    graph = trace(around(lambda x: x.transpose(1, 3).tril().transpose(1, 3)), IMAGE)
    assert reason(graph, "0") == "aten.tril.default in 1 cuts a triangle out of it"


def test_causal_mask_made_by_the_code_leaves_channels_alone() -> None:
    def causal(x: Tensor) -> Tensor:
        seen = torch.ones(8, 8).tril().bool()
        return (x @ x.mT).masked_fill(~seen, float("-inf")).softmax(-1) @ x

    assert widths(assert_slims_exactly(around(causal), IMAGE)) == {"0": 8}
