from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.graph import DependencyGraph, LiveSet, trace
from pipeline.prune import slim


class Net(nn.Module):
    """A residual block on 4x4 images, a concatenation and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.bn = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 6, 1)
        self.outer = nn.Conv2d(6, 8, 1)
        self.fc = nn.Linear(14 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn(self.stem(x)))
        y = functional.relu(self.inner(x))
        x = self.outer(y) + x
        z = functional.max_pool2d(torch.cat([x, y], 1), 2)
        return self.fc(z.flatten(1))


PLANE = 4 * 4 * 4  # bytes of one 4x4 channel in float32

# Worked out by hand: (step, fixed bytes, bytes a unit of "stem", bytes a unit of "inner").
BY_HAND = [
    ("conv2d", 3 * PLANE, PLANE, 0),  # the image and the stem's result
    ("batch_norm", 0, PLANE, 0),  # in the same memory
    ("relu", 0, PLANE, 0),  # likewise
    ("conv2d_1", 0, PLANE, PLANE),  # the stem's result stays for the residual
    ("relu_1", 0, PLANE, PLANE),
    ("conv2d_2", 0, 2 * PLANE, PLANE),  # outer's result has the stem's width; y is needed again
    ("add", 0, 2 * PLANE, PLANE),  # written over one of its two inputs, the other is alive until done
    ("cat", 0, 2 * PLANE, 2 * PLANE),  # inputs and their joined copy
    ("max_pool2d", 0, PLANE + PLANE / 4, PLANE + PLANE / 4),
    ("linear", 5 * 4, PLANE / 4, PLANE / 4),  # flatten is a view of the pooled tensor
]


@pytest.mark.parametrize("batch", [1, 3])
def test_live_bytes_are_those_worked_out_by_hand(batch: int) -> None:
    graph = trace(Net(), torch.zeros(batch, 3, 4, 4))
    assert graph.widths() == {"stem": 8, "inner": 6}
    found = [
        (live.step, live.fixed_bytes, live.per_unit_bytes.get("stem", 0), live.per_unit_bytes.get("inner", 0))
        for live in graph.liveness
    ]
    assert found == BY_HAND


def peak(graph: DependencyGraph, widths: dict[str, int]) -> float:
    return max(live.bytes(widths) for live in graph.liveness)


def test_linear_prediction_is_that_of_the_slimmed_model() -> None:
    model, x = Net(), torch.zeros(1, 3, 4, 4)
    graph = trace(model, x)
    slimmed = trace(slim(model, graph.plan({"stem": [0, 1, 5], "inner": [2, 3]})), x)
    chosen = {"stem": 3, "inner": 2}
    assert [live.bytes(chosen) for live in graph.liveness] == [
        live.bytes(chosen) for live in slimmed.liveness
    ]
    assert peak(graph, chosen) == peak(slimmed, slimmed.widths()) < peak(graph, graph.widths())


def test_in_place_operators_and_the_input_share_no_new_memory() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x * 2)
            y += 1
            return self.b(y.relu_())

    assert trace(InPlace(), torch.zeros(1, 3, 4, 4)).liveness == (
        LiveSet("mul", 6 * PLANE, {}),  # the model's input is never overwritten
        LiveSet("conv2d", 3 * PLANE, {"a": PLANE}),
        LiveSet("add_", 0, {"a": PLANE}),
        LiveSet("relu_", 0, {"a": PLANE}),
        LiveSet("conv2d_1", 2 * PLANE, {"a": PLANE}),
    )
