"""Small networks that the loop is tried on, beside the CIFAR ResNets of examples/."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ResNet8(nn.Module):
    """The image classifier of MLPerf Tiny (Banbury et al. 2021): 16, 32 and 64 channels, 3 × 32 × 32, 10 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _Block(16, 16, 1)
        self.layer2 = _Block(16, 32, 2)
        self.layer3 = _Block(32, 64, 2)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(x.mean(dim=(2, 3)))


class _Block(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(outside)
        self.shortcut = nn.Conv2d(inside, outside, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


class MobileNetV2(nn.Module):
    """Inverted residuals (Sandler et al. 2018) at the size of CIFAR: 3 × 32 × 32, 10 classes, seven of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 32, 3)
        settings = [(1, 16, 1), (6, 24, 1), (6, 24, 1), (6, 32, 2), (6, 32, 1), (6, 64, 2), (6, 64, 1)]
        blocks, inside = [], 32
        for expand, outside, stride in settings:
            blocks.append(_Inverted(inside, outside, stride, expand))
            inside = outside
        self.blocks = nn.Sequential(*blocks)
        self.head = _conv(inside, 128, 1)
        self.fc = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.head(self.blocks(self.stem(x))).mean(dim=(2, 3)))


class _Inverted(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, expand: int) -> None:
        super().__init__()
        width = inside * expand
        layers = [] if expand == 1 else [_conv(inside, width, 1)]
        layers += [_conv(width, width, 3, stride, width), nn.Conv2d(width, outside, 1, bias=False)]
        self.body = nn.Sequential(*layers, nn.BatchNorm2d(outside))
        self.adds = stride == 1 and inside == outside

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.adds else self.body(x)


class DsCnn(nn.Module):
    """Keyword spotting by depthwise separable convolutions (Zhang et al. 2017, DS-CNN-S): 1 × 49 × 10 features."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, 64, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(64), nn.ReLU()
        )
        pairs = [layer for _ in range(4) for layer in (_conv(64, 64, 3, 1, 64), _conv(64, 64, 1))]
        self.body = nn.Sequential(*pairs)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(self.stem(x)).mean(dim=(2, 3)))


def _conv(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    )


def resnet8() -> ResNet8:
    """Return an untrained one."""
    return ResNet8()


def mobilenet_v2() -> MobileNetV2:
    """Return an untrained one."""
    return MobileNetV2()


def ds_cnn() -> DsCnn:
    """Return an untrained one."""
    return DsCnn()
