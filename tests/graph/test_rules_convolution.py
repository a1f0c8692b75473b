from __future__ import annotations

import pytest
import torch
from rule_cases import IMAGE, Call, around, assert_slims_exactly, entries, reason, widths
from torch import Tensor, nn
from torch.nn import functional

from pipeline.graph import trace

ROW, VOLUME = torch.zeros(2, 3, 16), torch.zeros(2, 3, 4, 6, 6)


@pytest.mark.parametrize(
    ("layers", "example"),
    [
        ((nn.Conv1d(3, 8, 3), nn.Conv1d(8, 4, 3, padding="same")), ROW),
        ((nn.Conv2d(3, 8, 3, 2), nn.Conv2d(8, 4, (1, 2), dilation=2, bias=False)), IMAGE),
        ((nn.Conv3d(3, 8, 3, padding=1), nn.Conv3d(8, 4, (1, 3, 3), padding="valid")), VOLUME),
        ((nn.ConvTranspose1d(3, 8, 3), nn.ConvTranspose1d(8, 4, 2, 2)), ROW),
        ((nn.ConvTranspose2d(3, 8, 2, 2), nn.ConvTranspose2d(8, 4, 3, output_padding=0, bias=False)), IMAGE),
        ((nn.ConvTranspose3d(3, 8, 3), nn.ConvTranspose3d(8, 4, 1)), VOLUME),
        ((nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 4, 2, 2)), IMAGE),
    ],
)
def test_plain_convolution_takes_units_and_makes_new_ones(
    layers: tuple[nn.Module, nn.Module], example: Tensor
) -> None:
    graph = assert_slims_exactly(nn.Sequential(*layers), example)
    assert widths(graph) == {"0": 8}
    assert graph.groups[0].producers == ("0",)
    assert graph.groups[0].consumers == ("1",)


@pytest.mark.parametrize(
    ("grouped", "example"),
    [
        (nn.Conv1d(8, 12, 3, groups=2), ROW),
        (nn.Conv2d(8, 12, 3, groups=2, bias=False), IMAGE),
        (nn.Conv3d(8, 12, 3, groups=2), VOLUME),
        (nn.ConvTranspose1d(8, 12, 3, groups=2), ROW),
        (nn.ConvTranspose2d(8, 12, 2, 2, groups=2), IMAGE),
        (nn.ConvTranspose3d(8, 12, 3, groups=2), VOLUME),
    ],
)
def test_grouped_convolution_shrinks_by_groups_and_inside_of_them(
    grouped: nn.Module, example: Tensor
) -> None:
    rank = example.ndim - 2
    first, last = ((nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1](a, b, 1) for a, b in ((3, 8), (12, 4)))
    graph = assert_slims_exactly(nn.Sequential(first, grouped, last), example)
    assert sorted(widths(graph).values()) == [2, 4, 6]  # groups, inputs a group, outputs a group
    inputs = next(group for group in graph.groups if group.width == 4)
    assert entries(graph, inputs.name, "0.weight", 0) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    groups = next(group for group in graph.groups if group.width == 2)
    assert entries(graph, groups.name, "2.weight", 1) == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]


@pytest.mark.parametrize(
    "depthwise", [nn.Conv2d(8, 8, 3, groups=8), nn.ConvTranspose2d(8, 8, 2, 2, groups=8)]
)
def test_depthwise_convolution_passes_its_channels_on(depthwise: nn.Module) -> None:
    graph = assert_slims_exactly(around(depthwise), IMAGE)
    assert widths(graph) == {"0": 8}
    assert entries(graph, "0", "1.weight", 0) == [[unit] for unit in range(8)]


@pytest.mark.parametrize(
    "depthwise", [nn.Conv2d(8, 24, 3, groups=8), nn.ConvTranspose2d(8, 24, 2, 2, groups=8)]
)
def test_depthwise_multiplier_is_a_width_of_its_own(depthwise: nn.Module) -> None:
    graph = assert_slims_exactly(around(depthwise, taken=24), IMAGE)
    assert sorted(widths(graph).values()) == [3, 8]
    assert entries(graph, "0", "2.weight", 1)[:2] == [[0, 1, 2], [3, 4, 5]]


def test_depthwise_layer_on_the_input_keeps_its_channels_and_is_named() -> None:
    graph = trace(nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Conv2d(3, 4, 1)), IMAGE)
    assert widths(graph) == {}
    assert reason(graph, "0") == "a depthwise layer on channels of fixed number"


def test_grouped_layer_on_fixed_channels_shrinks_inside_of_its_groups_alone() -> None:
    graph = assert_slims_exactly(nn.Sequential(nn.Conv2d(3, 12, 3, groups=3), nn.Conv2d(12, 4, 1)), IMAGE)
    assert widths(graph) == {"0": 4}


def test_computed_weight_shrinks_with_the_parameters_it_is_made_of() -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            mean = self.weight.mean((1, 2, 3), keepdim=True)
            spread = self.weight.var((1, 2, 3), keepdim=True) + 1e-5
            return functional.conv2d(x, (self.weight - mean) / spread.sqrt(), self.bias, self.stride, 1)

    model = nn.Sequential(Standardised(3, 8, 3), nn.ReLU(), Standardised(8, 8, 3), nn.Conv2d(8, 4, 1))
    assert widths(assert_slims_exactly(model, IMAGE)) == {"0": 8, "2": 8}


def test_pointwise_kernel_leaves_the_units_along_its_positions_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Conv1d(5, 7, 1), nn.Conv1d(7, 5, 1), nn.Linear(8, 4))
    graph = assert_slims_exactly(model, torch.zeros(2, 5, 6))
    assert widths(graph) == {"0": 8, "1": 7}


def test_flat_kernel_slides_over_some_dimensions_and_leaves_the_others_alone() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Conv2d(5, 7, (3, 1), padding=(1, 0)), nn.Linear(8, 4))
    graph = assert_slims_exactly(model, torch.zeros(2, 5, 4, 6))
    assert widths(graph) == {"0": 8}


def test_kernel_that_slides_over_units_freezes_them() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.Conv1d(5, 7, 3, padding=1), nn.Linear(8, 4))
    graph = trace(model, torch.zeros(2, 5, 6))
    assert widths(graph) == {}
    assert reason(graph, "0") == "aten.conv1d.default in 1 slides over it"


def test_layers_of_two_dimensions_alone_are_recorded_as_compute() -> None:
    reshape = Call(lambda x: x.flatten(2))
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 2), reshape, nn.Conv1d(6, 4, 3))
    (layer,) = trace(model, IMAGE).layers
    assert (layer.name, layer.kind, layer.kernel, layer.out_group) == ("0", "conv2d", (3, 3), "0")


@pytest.mark.parametrize("transposed", [False, True])
def test_decomposed_convolution_follows_the_same_rules(transposed: bool) -> None:
    def both(x: Tensor, layer: nn.Conv2d) -> Tensor:
        ones = [1, 1]
        zeros = [0, 0]
        return torch.ops.aten.convolution(x, layer.weight, None, ones, zeros, ones, transposed, zeros, 1)

    graph = assert_slims_exactly(around(Call(both, nn.Conv2d(8, 8, 3, bias=False))), IMAGE)
    assert widths(graph) == {"0": 8, "1.modules_.0": 8}
