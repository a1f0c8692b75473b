"""Stages of random networks on images that move entries about: picking, mixing, padding, resizing, windows."""

from __future__ import annotations

from random import Random

import torch
from random_images import Made, conv, divisors, plain, stage, width
from torch import Tensor, nn
from torch.nn import functional


class Shuffle(nn.Module):
    def __init__(self, c: int, groups: int, kind: str) -> None:
        super().__init__()
        self.c, self.groups, self.kind = c, groups, kind
        self.module = nn.ChannelShuffle(groups)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "module":
            return self.module(x)
        if self.kind == "baked":
            y = x.reshape(x.shape[0], self.groups, self.c // self.groups, *x.shape[2:])
            return y.transpose(1, 2).reshape(x.shape[0], self.c, *x.shape[2:])
        n, c, h, w = x.size()
        x = x.view(n, self.groups, c // self.groups, h, w)
        return torch.transpose(x, 1, 2).contiguous().view(n, -1, h, w)


@stage
def shuffled(pick: Random, c: int, s: int) -> Made:
    return Shuffle(c, pick.choice(divisors(c)), pick.choice(["module", "baked", "read"])), c, s


class Picked(nn.Module):
    """Some of the channels, in one of the ways there are."""

    def __init__(self, chosen: list[int], c: int, kind: str) -> None:
        super().__init__()
        self.kind, self.k = kind, len(chosen)
        self.start = c - len(chosen)
        self.chosen = chosen
        self.register_buffer("indices", torch.tensor(chosen))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "slice":
            return x[:, : self.k]
        if self.kind == "narrow":
            return x.narrow(1, self.start, self.k)
        if self.kind == "list":
            return x[:, self.chosen]
        if self.kind == "buffer":
            return x[:, self.indices]
        if self.kind == "gather":
            return torch.gather(x, 1, self.indices.view(1, -1, 1, 1).expand(x.shape[0], -1, *x.shape[2:]))
        return torch.index_select(x, 1, self.indices)


class Reordered(nn.Module):
    def __init__(self, c: int, kind: str) -> None:
        super().__init__()
        self.c, self.kind = c, kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "flip":
            return x.flip(1)
        if self.kind == "roll":
            return torch.roll(x, 1, dims=1)
        if self.kind == "mirror":
            return x + x.flip(-1).roll((1, 1), (2, 3))
        if self.kind == "odd":
            return torch.cat([x[:, 1::2], x[:, ::2]], 1)
        if self.kind == "swap":
            a, b = x.chunk(2, dim=1)
            return torch.cat((b, a), dim=1)
        first, second = x.split([self.c // 3, self.c - self.c // 3], dim=1)
        return torch.cat([second, first.relu()], 1)


@stage
def picked(pick: Random, c: int, s: int) -> Made:
    if pick.random() < 0.6:
        return Reordered(c, pick.choice(["flip", "roll", "mirror", "odd", "swap", "sizes"])), c, s
    count = pick.randint(max(2, c // 2), c)
    kind = pick.choice(["slice", "narrow", "list", "buffer", "gather", "index_select"])
    return Picked(pick.sample(range(c), count), c, kind), count, s


class Written(nn.Module):
    """Some of the channels are changed in place."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.half = c // 2

    def forward(self, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, : self.half] *= 2
        return y


@stage
def written(pick: Random, c: int, s: int) -> Made:
    return Written(c), c, s


class Padded(nn.Module):
    """Zeros around the image, or more channels of zeros (the shortcut of the CIFAR residual nets)."""

    def __init__(self, c: int, out: int, mode: str) -> None:
        super().__init__()
        self.mode, self.more = mode, out - c
        self.conv = nn.Conv2d(c, out, 3, padding=1 if mode == "channels" else 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.mode == "channels":
            before = self.more // 2
            return self.conv(x) + functional.pad(x, (0, 0, 0, 0, before, self.more - before))
        return self.conv(functional.pad(x, [1, 1, 1, 1], mode=self.mode))


@stage
def padded(pick: Random, c: int, s: int) -> Made:
    mode = pick.choice(["channels", "channels", "constant", "reflect", "replicate"])
    out = c + pick.randint(1, 6) if mode == "channels" else width(pick)
    return Padded(c, out, mode if s > 1 else "constant"), out, s


class Resized(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "slices":
            return torch.cat(
                [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], dim=1
            )
        if self.kind == "max":
            return functional.max_pool2d(x, 2)
        if self.kind == "average":
            return functional.avg_pool2d(x, kernel_size=2, stride=2)
        if self.kind == "adaptive":
            return functional.adaptive_max_pool2d(x, (x.shape[2] // 2, x.shape[3] // 2))
        if self.kind == "steps":
            return x[:, :, ::2, ::2]
        return functional.interpolate(x, scale_factor=2, mode=self.kind)


@stage
def resized(pick: Random, c: int, s: int) -> Made:
    if s >= 4 and s % 2 == 0:
        kind = pick.choice(["max", "average", "adaptive", "steps", *(["slices"] if c <= 6 else [])])
        return Resized(kind), 4 * c if kind == "slices" else c, s // 2
    return (Resized(pick.choice(["nearest", "bilinear"])), c, 2 * s) if s <= 3 else plain(pick, c, s)


@stage
def pixels(pick: Random, c: int, s: int) -> Made:
    if s >= 4 and s % 2 == 0 and c <= 6:
        return nn.PixelUnshuffle(2), 4 * c, s // 2
    if s > 4:
        return plain(pick, c, s)
    out = width(pick) // 2 + 1
    return nn.Sequential(conv(pick, c, 4 * out), nn.PixelShuffle(2)), out, 2 * s


class Matrix(nn.Module):
    """Channels mixed by a bare matrix."""

    def __init__(self, inner: int, outer: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.w = nn.Parameter(torch.randn(outer, inner) * 0.4)
        self.b = nn.Parameter(torch.randn(outer))

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        if self.kind == "einsum":
            return torch.einsum("bchw,oc->bohw", x, self.w) + self.b.view(-1, 1, 1)
        if self.kind == "ellipsis":
            return torch.einsum("oc,bc...->bo...", self.w, x)
        if self.kind == "linear":
            return functional.linear(x.movedim(1, -1), self.w, self.b).movedim(-1, 1)
        if self.kind == "left":
            return (self.w @ x.flatten(2)).view(n, -1, h, w)
        tokens = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
        return torch.addmm(self.b, tokens, self.w.t()).reshape(n, h, w, -1).permute(0, 3, 1, 2)


@stage
def matrix(pick: Random, c: int, s: int) -> Made:
    out = width(pick)
    return Matrix(c, out, pick.choice(["einsum", "ellipsis", "linear", "left", "addmm"])), out, s


class NonLocal(nn.Module):
    """Attention between positions, or between channels."""

    def __init__(self, c: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.kind, self.hidden = kind, hidden
        self.q, self.k, self.v = nn.Conv2d(c, hidden, 1), nn.Conv2d(c, hidden, 1), nn.Conv2d(c, hidden, 1)
        self.out = nn.Conv2d(hidden, c, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        q, k, v = self.q(x).flatten(2), self.k(x).flatten(2), self.v(x).flatten(2)
        if self.kind == "positions":
            scores = torch.bmm(q.transpose(1, 2), k) * self.hidden**-0.5
            y = torch.bmm(v, scores.softmax(-1).transpose(1, 2))
        elif self.kind == "einsum":
            scores = torch.einsum("bci,bcj->bij", q, k) / 4
            y = torch.einsum("bij,bcj->bci", scores.softmax(dim=-1), v)
        elif self.kind == "gram":  # without a softmax: channels can go
            y = torch.matmul(torch.matmul(q, k.transpose(1, 2)) / (h * w), v)
        else:  # a softmax over channels: these stay
            y = torch.softmax(q @ k.mT / (h * w), dim=-1) @ v
        return x + self.out(y.reshape(n, -1, h, w))


@stage
def non_local(pick: Random, c: int, s: int) -> Made:
    return NonLocal(c, width(pick), pick.choice(["positions", "einsum", "gram", "channels"])), c, s


class Windows(nn.Module):
    """Attention within windows of the image, with a table of relative positions."""

    def __init__(self, c: int, heads: int, head_width: int, size: int, shift: int) -> None:
        super().__init__()
        self.heads, self.head_width, self.size, self.shift = heads, head_width, size, shift
        self.norm = nn.LayerNorm(c)
        self.qkv = nn.Linear(c, 3 * heads * head_width)
        self.proj = nn.Linear(heads * head_width, c)
        self.table = nn.Parameter(torch.randn((2 * size - 1) ** 2, heads))
        places = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")).flatten(1)
        apart = (places[:, :, None] - places[:, None, :]).permute(1, 2, 0) + size - 1
        self.register_buffer("index", apart[..., 0] * (2 * size - 1) + apart[..., 1])

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x.permute(0, 2, 3, 1))
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        b, h, w, c = y.shape
        k = self.size
        y = y.view(b, h // k, k, w // k, k, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, k * k, c)
        qkv = self.qkv(y).reshape(y.shape[0], k * k, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4)
        q, key, v = qkv.unbind(0)
        scores = (q * self.head_width**-0.5) @ key.transpose(-2, -1)
        bias = self.table[self.index.view(-1)].view(k * k, k * k, -1).permute(2, 0, 1)
        y = (scores + bias.unsqueeze(0)).softmax(-1) @ v
        y = self.proj(y.transpose(1, 2).reshape(-1, k * k, self.heads * self.head_width))
        y = y.view(b, h // k, w // k, k, k, -1).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, -1)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        return x + y.permute(0, 3, 1, 2)


@stage
def windows(pick: Random, c: int, s: int) -> Made:
    if s % 2 or s < 2:
        return plain(pick, c, s)
    return Windows(c, pick.randint(1, 4), pick.choice([2, 3, 4]), 2, pick.choice([0, 1])), c, s
