"""The search on graphs that were really traced, held against models that were really slimmed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_table import table_of
from torch import nn

from pipeline.graph import trace
from pipeline.prune import slim
from pipeline.search import (
    MilpAllocator,
    build_problem,
    candidate_widths,
    kept_indices,
    model_peak_bytes,
    weight_bytes,
)
from pipeline.search.importance import kept_shares
from pipeline.search.shapes import shape_at


class Branched(nn.Module):
    """Two branches, joined; a depthwise convolution, a residual block and a classifier behind a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 16, 3, padding=1)
        self.right = nn.Conv2d(3, 8, 1)
        self.into = nn.Conv2d(24, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, 2, 1, groups=16, bias=False)
        self.norm = nn.BatchNorm2d(16)
        self.inside = nn.Conv2d(16, 32, 3, padding=2, dilation=2)
        self.out = nn.Conv2d(32, 16, 3, padding=1)
        self.head = nn.Linear(16 * 16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.cat([torch.relu(self.left(x)), self.right(x)], 1)
        x = torch.relu(self.norm(self.depthwise(torch.relu(self.into(x)))))
        x = torch.relu(x + self.out(torch.relu(self.inside(x))))
        return self.head(x.flatten(1))


@pytest.fixture(scope="module")
def allocated():
    model, example = Branched().eval(), torch.randn(1, 3, 8, 8)
    graph = trace(model, example)
    widths = candidate_widths(graph)
    source = np.random.default_rng(0)
    importance = {group.name: source.exponential(size=group.width) for group in graph.groups}
    table = table_of(graph, widths)
    whole = build_problem(graph, table, kept_shares(importance, widths), {}, widths)
    limits = {name: 0.7 * cost for name, cost in whole.predicted(whole.full()).items()}
    limits["latency"] += 0.3 * table.empty_ms  # which no plan can shorten
    allocation = MilpAllocator().allocate(
        build_problem(graph, table, kept_shares(importance, widths), limits, widths)
    )
    smaller = slim(model, graph.plan(kept_indices(importance, allocation.widths)))
    return graph, table, limits, allocation, smaller, trace(smaller, example)


def test_the_chosen_widths_meet_every_limit(allocated):
    graph, _, limits, allocation, _, _ = allocated
    assert allocation.feasible
    assert allocation.optimal
    assert allocation.widths != graph.widths()
    assert all(allocation.predicted[name] <= limit * (1 + 1e-6) for name, limit in limits.items())


def test_the_slimmed_model_has_the_layers_that_were_predicted(allocated):
    graph, _, _, allocation, _, retraced = allocated
    predicted = [shape_at(layer, allocation.widths) for layer in graph.layers]
    assert predicted == [shape_at(layer, retraced.widths()) for layer in retraced.layers]


def test_the_slimmed_models_costs_are_the_predicted_ones(allocated):
    graph, table, _, allocation, smaller, retraced = allocated
    predicted = allocation.predicted
    assert table.predict(graph, allocation.widths) == pytest.approx(predicted["latency"])
    assert weight_bytes(retraced, {}) == pytest.approx(predicted["file"])
    assert model_peak_bytes(retraced, {}) == pytest.approx(predicted["model_peak"])
    norms = sum(each.numel() for name, each in smaller.named_parameters() if name.startswith("norm."))
    folded = retraced.layers[3].out_width  # the depthwise layer gets a bias from its batch norm
    parameters = sum(each.numel() for each in smaller.parameters()) - norms + folded
    assert weight_bytes(retraced, {}) == 4 * parameters
