from __future__ import annotations

import pytest
import torch
from rule_cases import assert_slims_exactly
from torch import Tensor, nn


class Sum(nn.Module):
    """A convolution, a product with a bare weight by an equation, a convolution."""

    def __init__(self, equation: str, *shape: int) -> None:
        super().__init__()
        self.equation = equation
        self.first, self.last = nn.Conv2d(3, 6, 1), nn.Conv2d(8, 4, 1)
        self.weight = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        order = (self.weight, y) if self.equation.startswith("o") else (y, self.weight)
        return self.last(torch.einsum(self.equation, *order))


@pytest.mark.parametrize(
    ("equation", "shape"),
    [
        ("bchw,oc->bohw", (8, 6)),
        ("oc,bchw->bohw", (8, 6)),
        ("oc, bc... -> bo...", (8, 6)),
        ("b...hw,...o->bohw", (6, 8)),
    ],
)
def test_letters_that_are_summed_over_are_inputs_and_new_ones_outputs(
    equation: str, shape: tuple[int, ...]
) -> None:
    graph = assert_slims_exactly(Sum(equation, *shape), torch.zeros(2, 3, 5, 5))
    assert {group.name: (group.width, group.consumers) for group in graph.groups} == {
        "first": (6, ("weight",)),
        "weight": (8, ("last",)),
    }


def test_heads_are_letters_that_both_activations_share() -> None:
    class Attend(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(6, 8) for _ in range(3))
            self.out = nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (f(x).unflatten(-1, (2, 4)) for f in (self.q, self.k, self.v))
            scores = torch.einsum("bihd,bjhd->bhij", q, k).softmax(-1)
            return self.out(torch.einsum("bhij,bjhd->bihd", scores, v).flatten(2))

    graph = assert_slims_exactly(Attend(), torch.zeros(2, 5, 6))
    assert sorted((group.granularity, group.width) for group in graph.groups) == [
        ("head", 2),
        ("head width", 4),
        ("head width", 4),
    ]
