"""What the tests of all rules share: small networks around one operator, their groups, and the proof."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.graph import DependencyGraph, trace
from pipeline.prune.graph_form import graph_form

sys.path.append(str(Path(__file__).parents[1] / "prune"))

from exactness import assert_exact

IMAGE = torch.zeros(2, 3, 8, 8)


class Call(nn.Module):
    """A function as a module, with modules that it may use."""

    def __init__(self, function: Callable[..., Any], *modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.modules_ = nn.ModuleList(modules)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, *self.modules_)


def around(middle: nn.Module | Callable[..., Any], taken: int = 8, made: int = 8) -> nn.Sequential:
    """Return a convolution (layer 0) that makes channels, what stands between, and one (layer 2) that takes some."""
    between = middle if isinstance(middle, nn.Module) else Call(middle)
    return nn.Sequential(nn.Conv2d(3, made, 3, padding=1), between, nn.Conv2d(taken, 4, 3, padding=1))


def widths(graph: DependencyGraph) -> dict[str, int]:
    """Return the width of every group by its name."""
    return {group.name: group.width for group in graph.groups}


def reason(graph: DependencyGraph, name: str) -> str:
    """Return why a layer's channels are frozen."""
    return next(frozen.reason for frozen in graph.frozen if frozen.name == name)


def entries(graph: DependencyGraph, group: str, parameter: str, dim: int) -> list[list[int]]:
    """Return which entries of a parameter's dimension go with each unit of a group."""
    members = graph.group(group).members
    found = next(one for one in members if (one.parameter, one.dim) == (parameter, dim))
    return [list(map(int, each)) for each in found.indices]


def assert_slims_exactly(model: nn.Module, *inputs: Tensor, seeds: int = 3) -> DependencyGraph:
    """Fail unless models slimmed to random units of every group give what the reference gives; return the graph.

    They are slimmed as graphs, which need nothing to be known of module classes: what is tried are the rules.
    """
    given = tuple(random_like(one) for one in inputs)
    graph = trace(model, given)
    assert graph.groups
    for seed in range(seeds):
        plan = graph.plan(random_keep(graph, seed))
        alive = graph.capture.alive(plan.keep)
        slimmed = graph_form(model, graph.capture, alive, any_batch=False).eval()
        assert size(slimmed) < size(model)
        assert_exact(model, graph, plan, slimmed, given)
    return graph


def random_keep(graph: DependencyGraph, seed: int) -> dict[str, list[int]]:
    """Return for every group at least one unit that stays, and at least one that goes."""
    chance = random.Random(seed)
    return {
        group.name: sorted(chance.sample(range(group.width), chance.randint(1, group.width - 1)))
        for group in graph.groups
    }


def random_like(one: Tensor) -> Tensor:
    return torch.randn_like(one) if one.is_floating_point() else one


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
