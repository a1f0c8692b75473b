"""What a search may choose: only what leaves the model one of its own classes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pipeline.graph import trace
from pipeline.search import candidate_widths, searchable


class Net(nn.Module):
    """A plain layer, one whose width is written into a view, one that is used in parts."""

    def __init__(self) -> None:
        super().__init__()
        self.plain, self.baked, self.parted = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 12, 1), nn.Conv2d(12, 16, 1)
        self.left, self.right = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.baked(torch.relu(self.plain(x))))
        left, right = self.parted(x.view(-1, 12, 8, 8)).chunk(2, 1)
        return self.left(left) + self.right(right)


def test_other_groups_stay_whole_and_are_named_with_the_reason() -> None:
    graph = trace(Net(), torch.zeros(1, 3, 8, 8))
    assert {group.name for group in graph.groups} == {"plain", "baked", "parted", "parted[2]"}
    found = searchable(graph)
    assert found.choosable == ("plain",)
    reasons = {each.name: each.reason for each in found.frozen}
    assert "own code fixes its width 12" in reasons["baked"]
    assert "different parts of the outputs" in reasons["parted"]
    assert candidate_widths(found) == {"plain": tuple(range(1, 9)), "baked": (12,)}
