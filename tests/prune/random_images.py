"""Stages of random networks on images: written as users write them, some reading sizes off, some baking them in.

A maker takes a random source, the channels and the side of its input, (N, C, S, S), and returns a module, and the
channels and the side of what that gives.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

Made = tuple[nn.Module, int, int]
Maker = Callable[[Random, int, int], Made]
IMAGE_STAGES: dict[str, Maker] = {}


def stage(maker: Maker) -> Maker:
    IMAGE_STAGES[maker.__name__] = maker
    return maker


def width(pick: Random, multiple: int = 1) -> int:
    """Choose a number of channels."""
    return multiple * pick.randint(max(1, 4 // multiple), max(2, 20 // multiple))


def activation(pick: Random) -> nn.Module:
    kinds = [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.GELU(),
        nn.SiLU(),
        nn.Hardswish(),
        nn.LeakyReLU(0.1),
        nn.Mish(),
    ]
    return pick.choice([*kinds, nn.ELU(), nn.Softplus(), nn.Hardtanh(-2, 2), nn.Tanh()])


def conv(pick: Random, inner: int, outer: int, kernel: int | None = None, groups: int = 1) -> nn.Conv2d:
    kernel = pick.choice([1, 3]) if kernel is None else kernel
    dilation = pick.choice([1, 1, 2]) if kernel > 1 else 1
    padding = pick.choice(["same", dilation * (kernel // 2)])
    bias = pick.random() < 0.6
    return nn.Conv2d(inner, outer, kernel, 1, padding, dilation, groups, bias)


def conv_bn(pick: Random, inner: int, outer: int) -> nn.Sequential:
    return nn.Sequential(conv(pick, inner, outer), nn.BatchNorm2d(outer), activation(pick))


def divisors(number: int) -> list[int]:
    return [k for k in range(2, number + 1) if number % k == 0] or [1]


# --- convolutions ---


@stage
def plain(pick: Random, c: int, s: int) -> Made:
    out = width(pick)
    return conv_bn(pick, c, out), out, s


@stage
def strided(pick: Random, c: int, s: int) -> Made:
    out, step = width(pick), 2 if s >= 4 else 1
    return nn.Conv2d(c, out, 3, step, 1), out, -(-s // step)


@stage
def grouped(pick: Random, c: int, s: int) -> Made:
    groups = pick.choice(divisors(c))
    out = groups * pick.randint(1, max(1, 20 // groups))
    return conv(pick, c, out, groups=groups), out, s


@stage
def depthwise(pick: Random, c: int, s: int) -> Made:
    multiplier = pick.choice([1, 1, 2, 3]) if c <= 10 else 1
    return nn.Sequential(conv(pick, c, c * multiplier, 3, groups=c), activation(pick)), c * multiplier, s


@stage
def transposed(pick: Random, c: int, s: int) -> Made:
    groups = pick.choice([1, 1, pick.choice(divisors(c))])
    out, step = groups * pick.randint(1, max(2, 16 // groups)), 2 if s <= 4 else 1
    kernel = pick.choice([step, 3]) if step == 2 else 3
    layer = nn.ConvTranspose2d(
        c, out, kernel, step, kernel // 2 if kernel == 3 else 0, kernel % 2 * (step - 1), groups
    )
    return layer, out, s * step


class Separate(nn.Module):
    """A weight that is computed in forward: standardised, or scaled by a parameter."""

    def __init__(self, inner: int, outer: int, standardise: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outer, inner, 3, 3) * 0.3)
        self.gain = nn.Parameter(torch.rand(outer, 1, 1, 1) + 0.5)
        self.bias = nn.Parameter(torch.randn(outer))
        self.standardise = standardise

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight
        if self.standardise:
            weight = weight - weight.mean(dim=(1, 2, 3), keepdim=True)
            weight = weight / (weight.std(dim=(1, 2, 3), keepdim=True) + 1e-5)
        return functional.conv2d(x, weight * self.gain, self.bias, padding=1)


@stage
def computed_weight(pick: Random, c: int, s: int) -> Made:
    out = width(pick)
    return Separate(c, out, pick.random() < 0.5), out, s


@stage
def normed_weight(pick: Random, c: int, s: int) -> Made:
    out = width(pick)
    norm = pick.choice([parametrizations.weight_norm, parametrizations.spectral_norm])
    return norm(conv(pick, c, out)), out, s


class Twice(nn.Module):
    """One layer called twice, or two layers with one weight."""

    def __init__(self, c: int, tied: bool) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(c, c, 3, padding=1), nn.SiLU()
        self.second = nn.Conv2d(c, c, 3, padding=1, bias=False) if tied else self.first
        if tied:
            self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)))


@stage
def shared(pick: Random, c: int, s: int) -> Made:
    return Twice(c, pick.random() < 0.5), c, s


class Lines(nn.Module):
    """A 3-D convolution over a dimension that is added, or a 1-D one over all positions in a row."""

    def __init__(self, inner: int, outer: int, deep: bool) -> None:
        super().__init__()
        self.deep, self.outer = deep, outer
        self.conv = (
            nn.Conv3d(inner, outer, (1, 3, 3), padding=(0, 1, 1))
            if deep
            else nn.Conv1d(inner, outer, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        if self.deep:
            return self.conv(x.unsqueeze(2)).squeeze(2)
        n, _, h, w = x.shape
        return self.conv(x.flatten(2)).view(n, self.outer, h, w)


@stage
def other_ranks(pick: Random, c: int, s: int) -> Made:
    out = width(pick)
    return Lines(c, out, pick.random() < 0.5), out, s


class Unfolded(nn.Module):
    """A convolution as a product of patches and a matrix."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.proj = nn.Linear(inner * 9, outer)

    def forward(self, x: Tensor) -> Tensor:
        patches = functional.unfold(x, 3, padding=1)
        return self.proj(patches.transpose(1, 2)).transpose(1, 2).reshape(x.shape[0], -1, *x.shape[2:])


@stage
def unfolded(pick: Random, c: int, s: int) -> Made:
    out = width(pick)
    return Unfolded(c, out), out, s


class BlurPool(nn.Module):
    """A fixed depthwise filter: one buffer a channel, or one that is expanded in forward."""

    def __init__(self, c: int, own: bool) -> None:
        super().__init__()
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        kernel = (row[:, None] * row[None, :])[None, None]
        self.own = own
        self.register_buffer("kernel", kernel.repeat(c, 1, 1, 1) if own else kernel)

    def forward(self, x: Tensor) -> Tensor:
        c = x.shape[1]
        kernel = self.kernel if self.own else self.kernel.expand(c, -1, -1, -1)
        return functional.conv2d(functional.pad(x, (1, 1, 1, 1), mode="reflect"), kernel, groups=c)


@stage
def blurred(pick: Random, c: int, s: int) -> Made:
    return BlurPool(c, pick.random() < 0.5), c, s


# --- norms and scales ---


class ChannelsLast(nn.Module):
    def __init__(self, c: int, kind: str) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(c, eps=1e-6) if kind == "rms" else nn.LayerNorm(c)
        self.linear = nn.Linear(c, c) if kind == "linear" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2).contiguous()


class ByHand(nn.Module):
    """Layer, RMS or global response norm over channels, spelt out."""

    def __init__(self, c: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weight, self.bias = nn.Parameter(torch.randn(c)), nn.Parameter(torch.randn(1, c, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "grn":
            size = x.norm(p=2, dim=(2, 3), keepdim=True)
            y = x * (size / (size.mean(dim=1, keepdim=True) + 1e-6))
        elif self.kind == "rms":
            y = x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6)
        elif self.kind == "unit":
            y = functional.normalize(x, dim=1)
        else:
            mean, var = x.mean(1, keepdim=True), x.var(1, keepdim=True, unbiased=False)
            y = (x - mean) / torch.sqrt(var + 1e-6)
        return self.weight[:, None, None] * y + self.bias


@stage
def norm(pick: Random, c: int, s: int) -> Made:
    kinds = [
        lambda: nn.BatchNorm2d(c),
        lambda: nn.GroupNorm(pick.choice([1, *divisors(c)]), c),
        lambda: nn.InstanceNorm2d(c, affine=pick.random() < 0.5) if s > 1 else nn.Identity(),
        lambda: ChannelsLast(c, pick.choice(["layer", "rms", "linear"])),
        lambda: ByHand(c, pick.choice(["grn", "rms", "unit", "layer"])),
    ]
    return pick.choice(kinds)(), c, s


class Scaled(nn.Module):
    """Bare parameters and buffers: a layer scale, a shift, a normalisation by constants."""

    def __init__(self, c: int, kind: str) -> None:
        super().__init__()
        self.c, self.kind = c, kind
        self.gamma = nn.Parameter(torch.randn(c))
        self.register_buffer("mean", torch.randn(c, 1, 1))
        self.register_buffer("std", torch.rand(1, c, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "scale":
            return x * self.gamma.view(1, -1, 1, 1)
        if self.kind == "baked":
            return x + x.tanh() * self.gamma.reshape(1, self.c, 1, 1)
        if self.kind == "addcmul":
            return torch.addcmul(self.mean, x, self.std)
        return (x - self.mean) / self.std


@stage
def scaled(pick: Random, c: int, s: int) -> Made:
    return Scaled(c, pick.choice(["scale", "baked", "addcmul", "normalise"])), c, s


@stage
def activated(pick: Random, c: int, s: int) -> Made:
    return pick.choice([nn.PReLU(c), nn.PReLU(), activation(pick)]), c, s


# --- gates ---


class Squeeze(nn.Module):
    def __init__(self, c: int, hidden: int, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(c, hidden) if linear else nn.Conv2d(c, hidden, 1)
        self.up = nn.Linear(hidden, c) if linear else nn.Conv2d(hidden, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.linear:
            b, c, _, _ = x.size()
            gate = self.up(functional.relu(self.down(x.mean((2, 3))))).sigmoid()
            return x * gate.view(b, c, 1, 1).expand_as(x)
        return x * functional.hardsigmoid(
            self.up(functional.silu(self.down(functional.adaptive_avg_pool2d(x, 1))))
        )


@stage
def squeeze_excite(pick: Random, c: int, s: int) -> Made:
    return Squeeze(c, width(pick), pick.random() < 0.5), c, s


class SpatialGate(nn.Module):
    """Mean and maximum over the channels gate the positions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([torch.mean(x, 1, keepdim=True), torch.max(x, 1, keepdim=True)[0]], dim=1)
        return x * torch.sigmoid(self.conv(both))


class NeighbourGate(nn.Module):
    """A convolution along the channels themselves: these have an order, and must all stay."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = x.mean((2, 3)).view(x.shape[0], 1, -1)
        return x * self.conv(y).sigmoid().view(x.shape[0], -1, 1, 1)


@stage
def position_gate(pick: Random, c: int, s: int) -> Made:
    return pick.choice([SpatialGate, SpatialGate, NeighbourGate])(), c, s


class Gated(nn.Module):
    def __init__(self, inner: int, outer: int, kind: str) -> None:
        super().__init__()
        self.kind, self.outer = kind, outer
        self.conv = nn.Conv2d(inner, 2 * outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.kind == "glu":
            return functional.glu(y, dim=1)
        if self.kind == "slices":
            return y[:, : self.outer] * y[:, self.outer :].sigmoid()
        if self.kind == "maxout":
            n, c, h, w = y.shape
            return y.view(n, c // 2, 2, h, w).amax(2)
        value, gate = y.chunk(2, dim=1) if self.kind == "chunk" else torch.split(y, self.outer, 1)
        return value * torch.tanh(gate)


@stage
def gated(pick: Random, c: int, s: int) -> Made:
    out = width(pick)
    return Gated(c, out, pick.choice(["glu", "slices", "maxout", "chunk", "split"])), out, s


# --- branches ---


class Residual(nn.Module):
    def __init__(self, body: nn.Module, skip: nn.Module, act: nn.Module, in_place: bool) -> None:
        super().__init__()
        self.body, self.skip, self.act, self.in_place = body, skip, act, in_place

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        if self.in_place:
            y += self.skip(x)
            return self.act(y)
        return self.act(self.skip(x) + y)


@stage
def residual(pick: Random, c: int, s: int) -> Made:
    hidden, out = width(pick), pick.choice([c, c, width(pick)])
    body = nn.Sequential(conv_bn(pick, c, hidden), conv(pick, hidden, out))
    if pick.random() < 0.5:
        body.append(nn.BatchNorm2d(out))
    skip = nn.Identity() if c == out else nn.Conv2d(c, out, 1)
    return (
        Residual(body, skip, pick.choice([nn.Identity(), nn.ReLU(), nn.GELU()]), pick.random() < 0.3),
        out,
        s,
    )


class Together(nn.Module):
    """Branches on one input, side by side or on top of each other."""

    def __init__(self, branches: list[nn.Module], kind: str) -> None:
        super().__init__()
        self.branches, self.kind = nn.ModuleList(branches), kind

    def forward(self, x: Tensor) -> Tensor:
        parts = [branch(x) for branch in self.branches]
        if self.kind == "cat":
            return torch.cat([x, *parts], 1)
        if self.kind == "sum":
            return torch.stack(parts, dim=0).sum(dim=0)
        if self.kind == "max":
            return torch.stack(parts, dim=1).amax(1)
        if self.kind == "product":
            return parts[0] * parts[1] + parts[1]
        pooled = torch.stack([part.mean((2, 3)) for part in parts], 1)  # selective kernels
        return (torch.stack(parts, 1) * pooled.softmax(1)[..., None, None]).sum(1)


@stage
def together(pick: Random, c: int, s: int) -> Made:
    kind = pick.choice(["cat", "cat", "sum", "max", "product", "select"])
    if kind == "cat":
        outs = [width(pick) // 2 + 1 for _ in range(pick.randint(1, 2))]
        return Together([conv_bn(pick, c, out) for out in outs], kind), c + sum(outs), s
    out = width(pick)
    return Together([conv_bn(pick, c, out) for _ in range(2)], kind), out, s


class Pyramid(nn.Module):
    """What was pooled comes back enlarged."""

    def __init__(self, c: int, out: int, mode: str) -> None:
        super().__init__()
        self.coarse, self.lateral, self.mode = nn.Conv2d(c, out, 3, padding=1), nn.Conv2d(c, out, 1), mode

    def forward(self, x: Tensor) -> Tensor:
        low = self.coarse(functional.avg_pool2d(x, 2))
        if self.mode == "global":
            return self.lateral(x) + functional.adaptive_avg_pool2d(low, 1).expand(-1, -1, *x.shape[-2:])
        return self.lateral(x) + functional.interpolate(low, size=x.shape[-2:], mode=self.mode)


@stage
def pyramid(pick: Random, c: int, s: int) -> Made:
    if s < 2:
        return plain(pick, c, s)
    out = width(pick)
    return Pyramid(c, out, pick.choice(["nearest", "bilinear", "global"])), out, s


class Cascade(nn.Module):
    """Res2Net: parts of the channels, each convolved together with what came before."""

    def __init__(self, c: int, parts: int) -> None:
        super().__init__()
        self.size = c // parts
        self.convs = nn.ModuleList(nn.Conv2d(self.size, self.size, 3, padding=1) for _ in range(parts - 1))

    def forward(self, x: Tensor) -> Tensor:
        first, *rest = torch.split(x, self.size, 1)
        done, last = [first], first
        for conv_, part in zip(self.convs, rest, strict=True):
            last = functional.relu(conv_(last + part))
            done.append(last)
        return torch.cat(done, 1)


@stage
def cascade(pick: Random, c: int, s: int) -> Made:
    parts = pick.choice([k for k in (2, 3, 4) if c % k == 0] or [1])
    return (Cascade(c, parts), c, s) if parts > 1 else plain(pick, c, s)
