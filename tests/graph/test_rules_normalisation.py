from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rule_cases import IMAGE, Call, around, assert_slims_exactly, entries, widths
from torch import nn
from torch.nn import functional

from pipeline.graph import trace

aten = torch.ops.aten


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(8),
        nn.BatchNorm2d(8, affine=False),
        nn.BatchNorm2d(8, track_running_stats=False),
        nn.InstanceNorm2d(8),
        nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        nn.Sequential(Call(lambda x: x.movedim(1, -1)), nn.LayerNorm(8), Call(lambda x: x.movedim(-1, 1))),
        nn.Sequential(Call(lambda x: x.movedim(1, -1)), nn.RMSNorm(8), Call(lambda x: x.movedim(-1, 1))),
        nn.LayerNorm((8, 8, 8)),
        nn.GroupNorm(1, 8),
        nn.GroupNorm(8, 8),
    ],
)
def test_normalisation_passes_every_channel_on(norm: nn.Module) -> None:
    graph = assert_slims_exactly(around(norm), IMAGE)
    assert widths(graph) == {"0": 8}


def test_scales_shifts_and_statistics_follow_the_channels() -> None:
    graph = trace(around(nn.BatchNorm2d(8)), IMAGE)
    for vector in ("weight", "bias", "running_mean", "running_var"):
        assert entries(graph, "0", f"1.{vector}", 0) == [[unit] for unit in range(8)]


def test_layer_norm_over_several_dimensions_slices_its_own_weights() -> None:
    graph = trace(around(nn.LayerNorm((8, 8, 8))), IMAGE)
    assert entries(graph, "0", "1.weight", 0) == [[unit] for unit in range(8)]


def test_group_norm_shrinks_by_groups_and_inside_of_them() -> None:
    graph = assert_slims_exactly(around(nn.GroupNorm(2, 8)), IMAGE)
    assert sorted(widths(graph).values()) == [2, 4]
    inside = next(group for group in graph.groups if group.width == 4)
    assert entries(graph, inside.name, "1.bias", 0) == [[0, 4], [1, 5], [2, 6], [3, 7]]


def test_group_norm_of_joined_halves_keeps_its_groups_alike() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm, self.last = (
                nn.Conv2d(3, 4, 1),
                nn.Conv2d(3, 4, 1),
                nn.GroupNorm(4, 8),
                nn.Conv2d(8, 4, 1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(self.norm(torch.cat([self.a(x), self.b(x)], 1)))

    assert_slims_exactly(Net(), IMAGE)


def test_local_response_norm_freezes_its_channels() -> None:
    graph = trace(around(lambda x: functional.local_response_norm(x, 3)), IMAGE)
    assert widths(graph) == {}


@pytest.mark.parametrize(
    ("build", "layer"),
    [
        (nn.utils.parametrizations.weight_norm, nn.Conv2d(8, 6, 3)),
        (nn.utils.parametrizations.spectral_norm, nn.Conv2d(8, 6, 3)),
    ],
)
def test_normalised_weights_shrink_where_their_norm_allows_it(build: object, layer: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), build(layer), nn.Conv2d(6, 4, 1))  # type: ignore[operator]
    graph = trace(model, IMAGE)
    assert widths(graph) == {"0": 8, "1": 6}


@pytest.mark.parametrize(
    ("native", "expected"),
    [
        (lambda x, w: aten.native_layer_norm(x.movedim(1, -1), [8], w, w, 1e-5)[0].movedim(-1, 1), [8]),
        (lambda x, w: aten.native_group_norm(x, w, w, 2, 8, 64, 2, 1e-5)[0], [2, 4]),
        (
            lambda x, w: aten._native_batch_norm_legit_no_training(x, w, w, w, w.exp(), 0.1, 1e-5)[0],
            [8],
        ),
        (lambda x, w: aten.native_batch_norm(x, w, w, None, None, True, 0.1, 1e-5)[0], [8]),
    ],
)
def test_decomposed_forms_follow_the_same_rules(native: Callable[..., Any], expected: list[int]) -> None:
    class Native(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return native(x, self.w)

    graph = trace(around(Native()), IMAGE)
    assert sorted(widths(graph).values()) == expected
    assert any(member.parameter == "1.w" for member in graph.groups[0].members)


def test_statistics_of_decomposed_norms_carry_the_units_of_what_they_are_of() -> None:
    def scaled(x: torch.Tensor) -> torch.Tensor:
        _, mean, _ = aten.native_layer_norm(x, [8], None, None, 1e-5)
        return x * mean

    assert widths(trace(around(scaled), IMAGE)) == {"0": 8}
