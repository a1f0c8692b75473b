from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rule_cases import IMAGE, around, assert_slims_exactly, reason, widths
from torch import Tensor, nn
from torch.nn import functional

from pipeline.graph import trace


@pytest.mark.parametrize(
    "over_space",
    [
        lambda x: x.mean((2, 3), keepdim=True),
        lambda x: x.sum(-1, keepdim=True),
        lambda x: x.amax((2, 3), keepdim=True),
        lambda x: x.amin(3, keepdim=True),
        lambda x: x.std((2, 3), keepdim=True),
        lambda x: x.var(2, unbiased=False, keepdim=True),
        lambda x: torch.var_mean(x, (2, 3), keepdim=True)[1],
        lambda x: torch.logsumexp(x, (2, 3), keepdim=True),
        lambda x: x.norm(dim=(2, 3), keepdim=True),
        lambda x: torch.linalg.vector_norm(x, 3, (2, 3), keepdim=True),
        lambda x: x.tanh().prod(3, keepdim=True),
        lambda x: x.max(3, keepdim=True)[0],
        lambda x: x.max(3, keepdim=True).indices * 0.1,
        lambda x: x.argmax(3, keepdim=True) * 0.1,
        lambda x: (x > 0).any(3, keepdim=True) * 0.5,
        lambda x: x.median(3, keepdim=True).values,
    ],
)
def test_reduction_over_space_passes_channels_on(over_space: Callable[[Tensor], Tensor]) -> None:
    assert widths(assert_slims_exactly(around(over_space), IMAGE)) == {"0": 8}


@pytest.mark.parametrize(
    "statistic",
    [
        lambda x: x.mean(1, keepdim=True),
        lambda x: x.sum(1).unsqueeze(1),
        lambda x: x.var(1, keepdim=True, unbiased=False),
        lambda x: x.norm(dim=1, keepdim=True),
        lambda x: x.amax(1, keepdim=True),
        lambda x: x.max(1, keepdim=True)[0],
        lambda x: x.max(1, keepdim=True).values + x.min(1, keepdim=True)[0],
        lambda x: x.tanh().prod(1, keepdim=True),
        lambda x: x.mean((1, 2, 3), keepdim=True),
        lambda x: x.std() + x.abs().max(),
    ],
)
def test_statistic_of_the_channels_is_that_of_those_which_stay(statistic: Callable[[Tensor], Tensor]) -> None:
    graph = assert_slims_exactly(around(lambda x: x * statistic(x)), IMAGE)
    assert widths(graph) == {"0": 8}


def test_attention_over_space_needs_no_particular_channel() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 1, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            seen = torch.cat([x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]], 1)
            return x * torch.sigmoid(self.conv(seen))

    assert widths(assert_slims_exactly(around(Gate()), IMAGE)) == {"0": 8}


def test_statistics_of_a_sequence_come_out_in_its_other_dimensions() -> None:
    model = nn.Sequential(nn.Linear(5, 8), around_last(lambda x: x.mean(1)), nn.Linear(8, 4))
    assert widths(assert_slims_exactly(model, torch.zeros(2, 7, 5))) == {"0": 8}


def around_last(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return around(function)[1]


@pytest.mark.parametrize(
    ("exact", "operator"),
    [
        (lambda x: x.logsumexp(1, keepdim=True), "aten.logsumexp.default"),
        (lambda x: x.argmax(1, keepdim=True), "aten.argmax.default"),
        (lambda x: x.max(1, keepdim=True).indices, "aten.max.dim"),
        (lambda x: (x > 0).all(1, keepdim=True), "aten.all.dim"),
        (lambda x: x.median(1, keepdim=True).values, "aten.median.dim"),
    ],
)
def test_reduction_that_needs_every_channel_freezes_them(
    exact: Callable[[Tensor], Tensor], operator: str
) -> None:
    graph = trace(around(lambda x: x * exact(x)), IMAGE)
    assert widths(graph) == {}
    assert reason(graph, "0") == f"{operator} in 1 reduces over it"


def test_larger_of_two_tensors_couples_them() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.max(self.a(x), self.b(x)))

    assert widths(assert_slims_exactly(Two(), IMAGE)) == {"a": 8}


def test_power_average_pooling_passes_channels_on() -> None:
    assert widths(assert_slims_exactly(around(lambda x: functional.lp_pool2d(x, 2, 2)), IMAGE)) == {"0": 8}
