"""Random small networks that mix the operators pruning has to follow, and random plans for them.

A network is an input (an image, a sequence of vectors or of numbers), a chain of stages, and a head. The same seed
always gives the same network, weights and inputs.
"""

from __future__ import annotations

from random import Random

import random_layouts  # noqa: F401 (registers its stages)
import torch
from random_images import IMAGE_STAGES, activation, width
from random_tokens import TOKEN_STAGES
from torch import Tensor, nn
from torch.nn import functional

from pipeline.graph import DependencyGraph
from pipeline.prune import SlimmingPlan

BATCH, CLASSES, WORDS = 2, 5, 11
TOLERANCE = 1e-11  # a hundred times what rounding does to these; a part that is wrong may weigh little


class Patches(nn.Module):
    """From an image to tokens: a patch embedding, the pixels themselves, or its columns."""

    def __init__(self, c: int, out: int, side: int, kind: str) -> None:
        super().__init__()
        self.kind, self.out = kind, out
        size = 2 if kind == "patches" and side % 2 == 0 else 1
        self.length = side if kind == "columns" else (side // size) ** 2
        self.layer = nn.Linear(c * side, out) if kind == "columns" else nn.Conv2d(c, out, size, size)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "columns":
            return self.layer(x.permute(0, 3, 1, 2).flatten(2))
        x = self.layer(x)
        if self.kind == "patches":
            return x.flatten(2).transpose(1, 2)
        return x.view(x.shape[0], self.out, -1).permute(0, 2, 1)


class Net(nn.Module):
    """Stages one after the other, then the head."""

    def __init__(self, stages: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stages, self.head = nn.ModuleList(stages), head

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.head(x)


class ImageHead(nn.Module):
    def __init__(self, c: int, side: int, kind: str) -> None:
        super().__init__()
        self.kind, self.c = kind, c
        self.fc = nn.Linear(c * side**2 if kind == "flatten" else c, CLASSES)
        self.map = nn.Conv2d(c, 3, 1) if kind in {"two", "named"} else nn.Identity()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor] | dict[str, Tensor]:
        if self.kind == "flatten":
            return self.fc(x.reshape(x.size(0), -1))
        if self.kind == "named":
            return {"classes": self.fc(x.amax((2, 3))), "maps": self.map(x).sigmoid()}
        if self.kind == "two":
            return self.fc(x.mean([2, 3])), self.map(x)
        if self.kind == "baked":
            return self.fc(functional.adaptive_avg_pool2d(x, 1).view(-1, self.c))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class TokenHead(nn.Module):
    def __init__(self, c: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.LayerNorm(c)
        self.query = nn.Parameter(torch.randn(1, 1, c))
        self.fc = nn.Linear(c, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        if self.kind == "first":
            return self.fc(x[:, 0])
        if self.kind == "all":
            return self.fc(x)
        if self.kind == "query":
            scores = (self.query @ x.transpose(1, 2)).softmax(-1)
            return self.fc((scores @ x).squeeze(1))
        return self.fc(x.mean(dim=1))


class Next(nn.Module):
    """Tells the next word, by the table that the words came from."""

    def __init__(self, net: Net, words: nn.Embedding) -> None:
        super().__init__()
        self.stages, self.back = net.stages, nn.Linear(net.head.fc.in_features, words.embedding_dim)
        self.out = nn.Linear(words.embedding_dim, words.num_embeddings, bias=False)
        self.out.weight = words.weight

    def forward(self, x: Tensor) -> Tensor:
        for stage in self.stages:
            x = stage(x)
        return self.out(self.back(x))


def random_net(seed: int) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """Return a network in eval mode, and inputs for it."""
    pick = Random(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        kind = pick.choice(["image", "image", "mixed", "tokens"])
        count = pick.randint(3, 9)
        net, x = _of_images(pick, count, kind == "mixed") if kind != "tokens" else _of_tokens(pick, count)
        _liven(net)
    return net.eval(), (x,)


def other_inputs(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return inputs of the same shapes that the network was not traced with."""
    return tuple(one.flip(0, 1) * -1.5 if one.is_floating_point() else one.flip(0, 1) for one in inputs)


def random_plan(graph: DependencyGraph, seed: int) -> SlimmingPlan:
    """Return a plan that keeps random units, at least one of every group, all of some, and drops some blocks."""
    pick = Random(seed)
    keep = {}
    for group in graph.groups:
        if pick.random() < (0.5 if group.within else 0.1):
            continue
        count = pick.randint(1, group.width)
        keep[group.name] = sorted(pick.sample(range(group.width), count))
    return graph.plan(keep, [block.name for block in graph.blocks if pick.random() < 0.2])


def _of_images(pick: Random, count: int, then_tokens: bool) -> tuple[nn.Module, Tensor]:
    c, side = width(pick), pick.choice([4, 6, 8])
    stages: list[nn.Module] = [nn.Conv2d(3, c, 3, padding=1)]
    x = torch.randn(BATCH, 3, side, side)
    for _ in range(count // 2 if then_tokens else count):
        module, c, side = pick.choice(list(IMAGE_STAGES.values()))(pick, c, side)
        stages.append(module)
    if not then_tokens:
        return Net(stages, ImageHead(c, side, pick.choice(["flatten", "two", "named", "baked", "pool"]))), x
    patches = Patches(c, width(pick), side, pick.choice(["patches", "pixels", "columns"]))
    return _with_tokens(pick, [*stages, patches], patches.out, patches.length, count - count // 2), x


def _of_tokens(pick: Random, count: int) -> tuple[nn.Module, Tensor]:
    c, length = width(pick), pick.choice([4, 6, 8])
    if pick.random() < 0.4:
        words, x = nn.Embedding(WORDS, c), torch.randint(WORDS, (BATCH, length))
        net = _with_tokens(pick, [words], c, length, count)
        return (Next(net, words) if pick.random() < 0.3 else net), x
    stages = [nn.Linear(5, c), activation(pick)]
    return _with_tokens(pick, stages, c, length, count), torch.randn(BATCH, length, 5)


def _with_tokens(pick: Random, stages: list[nn.Module], c: int, length: int, count: int) -> Net:
    for _ in range(count):
        module, c, length = pick.choice(list(TOKEN_STAGES.values()))(pick, c, length)
        stages.append(module)
    return Net(stages, TokenHead(c, pick.choice(["first", "all", "query", "mean"])))


def _liven(net: nn.Module) -> None:
    """Give norms weights and statistics that a mistake in them would show."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.GroupNorm | nn.LayerNorm):
            nn.init.normal_(module.weight, 1.0, 0.3)
            nn.init.normal_(module.bias, 0.0, 0.3)
