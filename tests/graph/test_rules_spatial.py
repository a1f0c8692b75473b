from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from rule_cases import IMAGE, Call, around, assert_slims_exactly, entries, reason, widths
from torch import Tensor, nn
from torch.nn import functional

from pipeline.graph import trace

ROW, VOLUME = torch.zeros(2, 3, 16), torch.zeros(2, 3, 4, 6, 6)


@pytest.mark.parametrize(
    "pooling",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(2),
        nn.AdaptiveMaxPool2d((1, 3)),
        Call(lambda x: functional.max_pool2d(x, 2, return_indices=True)[0]),
        Call(lambda x: functional.adaptive_max_pool2d(x, 2, return_indices=True)[0]),
        nn.Upsample(scale_factor=2),
        nn.Upsample(size=(5, 7), mode="nearest-exact"),
        nn.Upsample(scale_factor=1.5, mode="bilinear", align_corners=True),
        nn.Upsample(scale_factor=2, mode="bicubic"),
        Call(lambda x: functional.interpolate(x, (4, 4), mode="bilinear", antialias=True)),
        Call(lambda x: functional.interpolate(x, (4, 4), mode="bicubic", antialias=True)),
    ],
)
def test_pooling_and_resizing_pass_channels_on(pooling: nn.Module) -> None:
    assert widths(assert_slims_exactly(around(pooling), IMAGE)) == {"0": 8}


@pytest.mark.parametrize(
    ("pooling", "example"),
    [
        (nn.MaxPool1d(2), ROW),
        (nn.AvgPool1d(2), ROW),
        (nn.AdaptiveAvgPool1d(3), ROW),
        (nn.AdaptiveMaxPool1d(3), ROW),
        (nn.Upsample(scale_factor=2, mode="linear"), ROW),
        (nn.MaxPool3d(2), VOLUME),
        (nn.AvgPool3d((1, 2, 2)), VOLUME),
        (nn.AdaptiveAvgPool3d(1), VOLUME),
        (nn.AdaptiveMaxPool3d(2), VOLUME),
        (nn.Upsample(scale_factor=2), VOLUME),
        (nn.Upsample(scale_factor=2, mode="trilinear"), VOLUME),
    ],
)
def test_the_same_over_one_and_three_dimensions(pooling: nn.Module, example: Tensor) -> None:
    conv = nn.Conv1d if example.ndim == 3 else nn.Conv3d
    graph = assert_slims_exactly(nn.Sequential(conv(3, 8, 1), pooling, conv(8, 4, 1)), example, seeds=1)
    assert widths(graph) == {"0": 8}


def test_units_along_pooled_positions_are_frozen() -> None:
    graph = trace(nn.Sequential(nn.Linear(6, 8), nn.AvgPool1d(2), nn.Linear(4, 4)), torch.zeros(2, 5, 6))
    assert widths(graph) == {}
    assert reason(graph, "0") == "aten.avg_pool1d.default in 1 pools over it"


def test_unpooled_values_go_back_with_their_channels() -> None:
    def there_and_back(x: Tensor) -> Tensor:
        small, places = functional.max_pool2d(x, 2, return_indices=True)
        return functional.max_unpool2d(small, places, 2)

    assert widths(trace(around(there_and_back), IMAGE)) == {"0": 8}


def test_sampling_by_a_grid_passes_channels_on() -> None:
    def warp(x: Tensor) -> Tensor:
        grid = x.mean(1).unsqueeze(-1).tanh().repeat(1, 1, 1, 2)
        return functional.grid_sample(x, grid, align_corners=False)

    assert widths(assert_slims_exactly(around(warp), IMAGE)) == {"0": 8}


def test_grid_made_by_a_layer_keeps_its_coordinates() -> None:
    def warp(x: Tensor, offsets: nn.Module) -> Tensor:
        return functional.grid_sample(x, offsets(x).permute(0, 2, 3, 1), align_corners=False)

    graph = assert_slims_exactly(around(Call(warp, nn.Conv2d(8, 2, 1))), IMAGE)
    assert widths(graph) == {"0": 8}
    assert reason(graph, "1.modules_.0") == "aten.grid_sampler.default in 1 samples it by coordinates"


def test_windows_hold_one_entry_of_a_channel_for_every_place_of_the_kernel() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Unfold(2, stride=2), nn.Conv1d(32, 5, 1))
    graph = assert_slims_exactly(model, IMAGE)
    assert entries(graph, "0", "2.weight", 1)[1] == [4, 5, 6, 7]


def test_windows_laid_out_again_are_channels_again() -> None:
    model = nn.Sequential(nn.Conv1d(3, 24, 1), nn.Fold((4, 8), (2, 2), stride=2), nn.Conv2d(6, 4, 1))
    graph = assert_slims_exactly(model, torch.zeros(2, 3, 8))
    assert widths(graph) == {"0": 6}
    assert entries(graph, "0", "0.weight", 0)[1] == [4, 5, 6, 7]


@pytest.mark.parametrize(
    "windows",
    [lambda x: x.unfold(3, 4, 2).mean(-1), lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(4).amax(-1)],
)
def test_sliding_windows_over_space_pass_channels_on(windows: Callable[[Tensor], Tensor]) -> None:
    assert widths(assert_slims_exactly(around(windows), IMAGE)) == {"0": 8}


def test_sliding_windows_over_channels_freeze_them() -> None:
    graph = trace(around(lambda x: x.unfold(1, 2, 2).mean(-1), taken=4), IMAGE)
    assert reason(graph, "0") == "aten.unfold.default in 1 cuts windows out of it"
