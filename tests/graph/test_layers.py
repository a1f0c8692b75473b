from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.graph import ComputeLayer, trace
from pipeline.prune import slim


class Mixed(nn.Module):
    """One layer of every kind that a latency table must tell apart."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, (3, 5), stride=2, padding=(1, 2), bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding="same", dilation=2, groups=8)
        self.left = nn.Conv2d(8, 6, 1, bias=False)
        self.right = nn.Conv2d(8, 6, 1)
        self.other = nn.Conv2d(8, 4, 1, padding="valid")
        self.fc = nn.Linear(10 * 16 + 8, 12)
        self.head = nn.Linear(12, 3, bias=False)
        self.act = nn.ReLU6(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.stem(x)), inplace=True)
        x = self.act(self.depthwise(x))
        y = functional.relu(self.left(x) + self.right(x))
        z = torch.cat([torch.cat([y, functional.hardswish(self.other(x))], 1).flatten(1), x.mean((2, 3))], 1)
        return self.head(functional.hardtanh(self.fc(z), 0.0, 4.0))


def layers() -> dict[str, ComputeLayer]:
    return {layer.name: layer for layer in trace(Mixed(), torch.zeros(2, 3, 8, 8)).layers}


def test_layers_are_in_order_with_their_shapes() -> None:
    found = layers()
    assert list(found) == ["stem", "depthwise", "left", "right", "other", "fc", "head"]
    stem = found["stem"]
    assert (stem.kind, stem.in_width, stem.out_width, stem.kernel) == ("conv2d", 3, 8, (3, 5))
    assert (stem.stride, stem.padding, stem.dilation) == ((2, 2), (1, 2), (1, 1))
    assert (stem.groups, stem.depthwise, stem.input_hw, stem.output_hw) == (1, False, (8, 8), (4, 4))
    depthwise = found["depthwise"]
    assert (depthwise.groups, depthwise.depthwise) == (8, True)
    assert (depthwise.padding, depthwise.dilation) == ((2, 2), (2, 2))
    fc = found["fc"]
    assert (fc.kind, fc.in_width, fc.out_width, fc.kernel, fc.input_hw) == ("linear", 168, 12, (1, 1), (1, 1))


def test_bias_after_folding_and_the_activation_that_follows_directly() -> None:
    facts = {name: (layer.bias, layer.activation) for name, layer in layers().items()}
    assert facts == {
        "stem": (True, "relu"),
        "depthwise": (True, "relu6"),
        "left": (False, None),
        "right": (True, None),
        "other": (True, None),
        "fc": (True, None),
        "head": (False, None),
    }


def test_groups_that_make_up_the_widths() -> None:
    found = layers()
    assert (found["stem"].in_groups, found["stem"].in_fixed, found["stem"].out_group) == ((), 3, "stem")
    assert (found["depthwise"].in_groups, found["depthwise"].out_group) == (("stem",), "stem")
    assert (found["right"].in_groups, found["right"].out_group) == (("stem",), "left")
    fc = found["fc"]
    assert (fc.in_groups, fc.in_repeat) == (("left",) * 16 + ("other",) * 16 + ("stem",), 1)
    assert (found["head"].out_group, found["head"].out_fixed) == (None, 3)


def test_predicted_widths_are_those_of_the_slimmed_model() -> None:
    model = Mixed()
    graph = trace(model, torch.zeros(1, 3, 8, 8))
    plan = graph.plan({"stem": [0, 3, 5], "left": [1, 2, 4, 5], "other": [2], "fc": [0, 7]})
    slimmed = slim(model, plan)
    after = {name: width for name, (_, width) in plan.widths.items()}
    for layer in graph.layers:
        module = slimmed.get_submodule(layer.name)
        if isinstance(module, nn.Conv2d):
            assert layer.widths(after) == (module.in_channels, module.out_channels)
        elif isinstance(module, nn.Linear):
            assert layer.widths(after) == (module.in_features, module.out_features)
        assert layer.widths(graph.widths()) == (layer.in_width, layer.out_width)


def test_linear_over_tokens_counts_its_rows() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(functional.relu(self.a(x)))

    graph = trace(Tokens(), torch.zeros(2, 5, 4))
    assert [layer.input_hw for layer in graph.layers] == [(5, 1), (5, 1)]
    assert graph.layers[0].activation == "relu"
    assert graph.widths() == {"a": 8}
