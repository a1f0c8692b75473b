from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.graph import trace
from pipeline.graph.operations import operations


def macs(model: nn.Module, *inputs: Tensor) -> dict[str, int]:
    return {f"{each.kind} {each.name}": each.macs for each in operations(trace(model, inputs).capture)}


def test_convolutions_and_linear_layers_count_for_one_sample() -> None:
    net = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1, groups=2),
        nn.ConvTranspose2d(8, 6, 2, stride=2),
        nn.Flatten(),
        nn.Linear(6 * 16 * 16, 10),
    )
    assert macs(net, torch.zeros(5, 4, 8, 8)) == {
        "conv2d 0": 64 * 8 * 2 * 9,
        "conv_transpose2d 1": 64 * 8 * 6 * 4,
        "linear 3": 6 * 256 * 10,
    }


def test_attention_and_recurrent_layers_count() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTM(6, 8, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            y, _ = self.cell(x)
            return functional.scaled_dot_product_attention(y, y, y) @ y.mT

    found = macs(Net(), torch.zeros(2, 5, 6))
    assert found["lstm cell"] == 5 * 4 * 8 * (6 + 8)
    assert sorted(found.values())[:2] == [5 * 5 * 8, 2 * 5 * 5 * 8]
