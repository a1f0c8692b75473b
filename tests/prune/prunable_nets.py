"""Small networks that stand for the families the graph must understand, and the masking to compare with."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.graph import DependencyGraph, trace
from pipeline.prune import SlimmingPlan


def conv_bn(inner: int, outer: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inner, outer, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outer))


class PlainNet(nn.Module):
    """Convolutions with biases, batch norm, flatten into linear layers: a channel becomes 16 features."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 12, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 10, 3, padding="same")
        self.fc1 = nn.Linear(160, 20)
        self.fc2 = nn.Linear(20, 5)
        self.drop = nn.Dropout(0.3)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 2)
        x = functional.avg_pool2d(functional.relu6(self.conv2(x)), 2)
        x = x.view(x.size(0), -1)
        return self.fc2(self.drop(functional.gelu(self.fc1(x))))


class Block(nn.Module):
    """Two convolutions and a shortcut that projects where the width or the size changes."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv_bn(inner, outer, stride=stride), conv_bn(outer, outer)
        same = inner == outer and stride == 1
        self.shortcut = nn.Identity() if same else conv_bn(inner, outer, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(functional.relu(self.conv1(x), inplace=True))
        y += self.shortcut(x)
        return functional.relu(y)


class ProjectionResNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8)
        self.blocks = nn.Sequential(Block(8, 8, 1), Block(8, 16, 2), Block(16, 16, 1))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.relu(self.stem(x)))
        return self.fc(x.mean([2, 3]))


class OptionABlock(nn.Module):
    """The CIFAR residual block: a narrower shortcut is subsampled and padded with zero channels."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        stride = 1 if inner == outer else 2
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outer)
        self.more = (outer - inner) // 2

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        if self.more:
            x = functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.more, self.more))
        return functional.relu(y + x)


class CifarResNet20(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(OptionABlock(16, 16) for _ in range(3)))
        self.layer2 = nn.Sequential(OptionABlock(16, 32), OptionABlock(32, 32), OptionABlock(32, 32))
        self.layer3 = nn.Sequential(OptionABlock(32, 64), OptionABlock(64, 64), OptionABlock(64, 64))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = functional.avg_pool2d(x, x.size()[3])
        return self.linear(x.view(x.size(0), -1))


class InvertedResidual(nn.Module):
    def __init__(self, inner: int, outer: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.expand = conv_bn(inner, hidden, 1)
        self.depthwise = conv_bn(hidden, hidden, 3, stride, groups=hidden)
        self.project = conv_bn(hidden, outer, 1)
        self.residual = inner == outer and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.expand(x))
        y = self.project(functional.hardswish(self.depthwise(y)))
        return x + y if self.residual else y


class MobileNet(nn.Module):
    """Inverted residuals, and a squeeze-and-excite gate whose two sides share their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8, stride=2)
        self.blocks = nn.Sequential(InvertedResidual(8, 12, 24, 2), InvertedResidual(12, 12, 30, 1))
        self.squeeze, self.excite = nn.Conv2d(12, 6, 1), nn.Conv2d(6, 12, 1)
        self.head = conv_bn(12, 20, 1)
        self.fc = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.relu6(self.stem(x)))
        gate = self.excite(functional.silu(self.squeeze(functional.adaptive_avg_pool2d(x, 1))))
        x = functional.relu6(self.head(x * torch.sigmoid(gate)))
        return self.fc(torch.flatten(functional.adaptive_avg_pool2d(x, 1), 1))


class ConcatNet(nn.Module):
    """Two branches side by side with the image itself, twice joined; the last join goes through a flatten."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 9, 3, padding=1)
        self.bn = nn.BatchNorm2d(18)
        self.mix = nn.Conv2d(18, 7, 3, padding=1)
        self.fc = nn.Linear(13 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = functional.relu(self.left(x)), functional.relu(self.right(x))
        y = functional.relu(self.mix(self.bn(torch.cat([left, x, right], 1))))
        both = functional.adaptive_max_pool2d(torch.cat([y, left], 1), 2)
        return self.fc(both.flatten(1))


class GroupedNet(nn.Module):
    """A grouped convolution (4 groups, then 2), and a depthwise one with two outputs a channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.grouped = nn.Conv2d(16, 24, 3, padding=1, groups=4)
        self.halves = nn.Conv2d(24, 12, 1, groups=2)
        self.wide = nn.Conv2d(12, 24, 3, padding=1, groups=12)
        self.last = nn.Conv2d(24, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.grouped(functional.relu(self.stem(x))))
        x = functional.relu(self.wide(functional.relu(self.halves(x))))
        return self.fc(self.last(x).mean((2, 3)))


class ProductNet(nn.Module):
    """Bare parameters in products and sums, a transpose, a layer scale: no module owns the shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(48, 14)
        self.scale = nn.Parameter(torch.randn(14))
        self.matrix = nn.Parameter(torch.randn(14, 9))
        self.rows = nn.Parameter(torch.randn(11, 9))
        self.shift = nn.Parameter(torch.randn(11))
        self.last = nn.Linear(11, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.first(x.reshape(x.shape[0], 16, -1).permute(0, 2, 1).flatten(1)[:, :48]))
        x = torch.tanh((x * self.scale) @ self.matrix)
        return self.last(torch.tanh(torch.addmm(self.shift, x, self.rows.t())))


class ShuffleNet(nn.Module):
    """A channel shuffle and a gated unit: both split the channels into equal parts."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(3, 16, 3, padding=1)
        self.gated = nn.Conv2d(16, 20, 1)
        self.last = nn.Conv2d(10, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.grouped(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        value, gate = self.gated(x).chunk(2, dim=1)
        return self.fc(functional.relu(self.last(value * torch.sigmoid(gate))).mean((2, 3)))


NETS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "plain": (PlainNet, (3, 16, 16)),
    "projection": (ProjectionResNet, (3, 8, 8)),
    "option-a": (CifarResNet20, (3, 16, 16)),
    "mobile": (MobileNet, (3, 16, 16)),
    "concat": (ConcatNet, (3, 8, 8)),
    "grouped": (GroupedNet, (3, 6, 6)),
    "product": (ProductNet, (3, 4, 4)),
    "shuffle": (ShuffleNet, (3, 6, 6)),
}


def make(name: str) -> nn.Module:
    """Build a net with random weights and running statistics, in eval mode; the same one every time."""
    torch.manual_seed(sum(name.encode()))
    net = NETS[name][0]()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for vector in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(vector)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


def example(name: str, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, *NETS[name][1], generator=generator)


@cache
def traced(name: str) -> DependencyGraph:
    return trace(make(name), example(name))


def random_keep(graph: DependencyGraph, seed: int) -> dict[str, list[int]]:
    """Choose random kept units of every group: at least one, at most all."""
    generator = torch.Generator().manual_seed(seed)
    keep = {}
    for group in graph.groups:
        count = int(torch.randint(1, group.width + 1, (1,), generator=generator))
        keep[group.name] = sorted(torch.randperm(group.width, generator=generator)[:count].tolist())
    return keep


def mask(model: nn.Module, graph: DependencyGraph, plan: SlimmingPlan) -> None:
    """Zero in place all that makes a dropped unit: filters, biases and normalisation, not its consumers."""
    parameters = dict(model.named_parameters())
    for group in graph.groups:
        dropped = sorted(set(range(group.width)) - set(plan.keep[group.name]))
        for member in group.members:
            if member.role == "in" or member.parameter not in parameters:
                continue
            entries = torch.tensor(
                [index for unit in dropped for index in member.indices[unit]], dtype=torch.long
            )
            with torch.no_grad():
                parameters[member.parameter].index_fill_(member.dim, entries, 0.0)
