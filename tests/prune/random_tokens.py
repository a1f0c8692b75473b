"""Stages of random networks on tokens and sequences, (N, L, C): attention, feed-forward, recurrence.

A maker takes a random source, the channels and the length, and returns a module, and the channels and the length
of what that gives.
"""

from __future__ import annotations

from random import Random

import torch
from random_images import Made, Maker, width
from torch import Tensor, nn
from torch.nn import functional

TOKEN_STAGES: dict[str, Maker] = {}


def stage(maker: Maker) -> Maker:
    TOKEN_STAGES[maker.__name__] = maker
    return maker


class Norm(nn.Module):
    """RMS norm as language models spell it out."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(c))

    def forward(self, x: Tensor) -> Tensor:
        x = x.float()
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def norm(pick: Random, c: int) -> nn.Module:
    return pick.choice([nn.LayerNorm(c), nn.RMSNorm(c, eps=1e-6), Norm(c), nn.Identity()])


class FeedForward(nn.Module):
    def __init__(self, pre: nn.Module, c: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.pre, self.kind, self.hidden = pre, kind, hidden
        self.up = nn.Linear(c, 2 * hidden if kind in {"fused", "split"} else hidden, bias=kind != "swiglu")
        self.gate = nn.Linear(c, hidden) if kind == "swiglu" else nn.Identity()
        self.down = nn.Linear(hidden, c)
        self.gamma = nn.Parameter(torch.full((c,), 0.7))

    def forward(self, x: Tensor) -> Tensor:
        y = self.pre(x)
        if self.kind == "swiglu":
            y = functional.silu(self.gate(y)) * self.up(y)
        elif self.kind == "fused":
            a, b = self.up(y).chunk(2, dim=-1)
            y = functional.silu(a) * b
        elif self.kind == "split":
            a, b = self.up(y).split([self.hidden, self.hidden], -1)
            y = a * functional.gelu(b)
        else:
            y = functional.gelu(self.up(y))
        return x + self.gamma * self.down(y)


@stage
def feed_forward(pick: Random, c: int, length: int) -> Made:
    kind = pick.choice(["plain", "swiglu", "fused", "split"])
    return FeedForward(norm(pick, c), c, width(pick), kind), c, length


class Attention(nn.Module):
    """One fused projection for queries, keys and values, in several spellings."""

    def __init__(self, pre: nn.Module, c: int, heads: int, head_width: int, kind: str) -> None:
        super().__init__()
        self.pre, self.kind, self.heads, self.head_width = pre, kind, heads, head_width
        self.inner = heads * head_width
        self.qkv = nn.Linear(c, 3 * self.inner)
        self.proj = nn.Linear(self.inner, c)
        self.scale = head_width**-0.5
        self.gates = nn.Parameter(torch.randn(heads, 1, 1)) if kind == "gates" else None
        self.q_norm = nn.LayerNorm(head_width) if kind == "normed" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.pre(x)
        b, n, _ = y.shape
        if self.kind == "chunk":
            q, k, v = (t.view(b, n, self.heads, -1).transpose(1, 2) for t in self.qkv(y).chunk(3, dim=-1))
        elif self.kind == "split":
            q, k, v = self.qkv(y).split(self.inner, dim=2)
            q, k, v = (t.view(b, n, self.heads, self.inner // self.heads).transpose(1, 2) for t in (q, k, v))
        else:
            q, k, v = (
                self.qkv(y).reshape(b, n, 3, self.heads, self.head_width).permute(2, 0, 3, 1, 4).unbind(0)
            )
        if self.kind in {"softmax", "gates"}:
            scores = (q @ k.transpose(-2, -1)) * self.scale
            out = scores.softmax(dim=-1) @ v
            if self.gates is not None:
                out = out * self.gates
        elif self.kind == "read":
            scores = torch.matmul(q, k.mT) / q.shape[-1] ** 0.5
            out = torch.matmul(functional.softmax(scores, -1), v)
        elif self.kind == "einsum":
            scores = torch.einsum("bhid,bhjd->bhij", q, k) * self.scale
            out = torch.einsum("bhij,bhjd->bhid", scores.softmax(-1), v)
        else:
            out = functional.scaled_dot_product_attention(
                self.q_norm(q), k, v, is_causal=self.kind == "split"
            )
        return x + self.proj(out.transpose(1, 2).reshape(b, n, self.inner if self.kind == "chunk" else -1))


@stage
def attention(pick: Random, c: int, length: int) -> Made:
    kind = pick.choice(["timm", "chunk", "split", "softmax", "gates", "normed", "read", "einsum"])
    return Attention(norm(pick, c), c, pick.randint(1, 4), pick.choice([2, 3, 4]), kind), c, length


class Separate(nn.Module):
    """Three projections; fewer heads of keys and values than of queries."""

    def __init__(self, c: int, heads: int, shared: int, head_width: int, kind: str) -> None:
        super().__init__()
        self.kind, self.heads, self.shared, self.head_width = kind, heads, shared, head_width
        few = heads // shared
        self.q = nn.Linear(c, heads * head_width, bias=False)
        self.k, self.v = nn.Linear(c, few * head_width), nn.Linear(c, few * head_width)
        self.o = nn.Linear(heads * head_width, c)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.size()
        q = self.q(x).view(b, n, -1, self.head_width).transpose(1, 2)
        k = self.k(x).view(b, n, self.heads // self.shared, self.head_width).transpose(1, 2)
        v = self.v(x).view(b, n, -1, self.head_width).transpose(1, 2)
        if self.kind == "repeat":
            k, v = k.repeat_interleave(self.shared, dim=1), v.repeat_interleave(self.shared, dim=1)
        elif self.kind == "expand":
            k, v = (self._spread(t) for t in (k, v))
        y = functional.scaled_dot_product_attention(
            q, k, v, enable_gqa=self.kind == "native" and self.shared > 1
        )
        return x + self.o(y.transpose(1, 2).contiguous().view(b, n, -1))

    def _spread(self, t: Tensor) -> Tensor:
        b, few, n, d = t.shape
        return t[:, :, None].expand(b, few, self.shared, n, d).reshape(b, few * self.shared, n, d)


@stage
def shared_heads(pick: Random, c: int, length: int) -> Made:
    shared = pick.choice([1, 2, 2, 3])
    heads = shared * pick.randint(1, 3)
    kind = pick.choice(["repeat", "expand", "native"])
    return Separate(c, heads, shared, pick.choice([2, 4]), kind), c, length


class Library(nn.Module):
    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(c, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.attention(x, x, x, need_weights=False)[0]


@stage
def library(pick: Random, c: int, length: int) -> Made:
    heads = [k for k in (2, 3, 4) if c % k == 0] or [1]
    if pick.random() < 0.5:
        return Library(c, pick.choice(heads)), c, length
    layer = nn.TransformerEncoderLayer(
        c, pick.choice(heads), width(pick), batch_first=True, norm_first=pick.random() < 0.5
    )
    return layer, c, length


class CrossCovariance(nn.Module):
    """Attention between the channels of a head, on queries and keys of unit length."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(c, 3 * c), nn.Linear(c, c)
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 4, 1)
        q, k, v = qkv[0], qkv[1], qkv[2]
        q, k = functional.normalize(q, dim=-1), functional.normalize(k, dim=-1)
        scores = ((q @ k.transpose(-2, -1)) * self.temperature).softmax(-1)
        return x + self.proj((scores @ v).permute(0, 3, 1, 2).reshape(b, n, c))


@stage
def cross_covariance(pick: Random, c: int, length: int) -> Made:
    return CrossCovariance(c, pick.choice([k for k in (2, 3, 4) if c % k == 0] or [1])), c, length


class Rotary(nn.Module):
    """Positions turn pairs of a head's entries: heads can go, their width cannot be thinned at will."""

    def __init__(self, c: int, heads: int, half: int, length: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v = (nn.Linear(c, heads * 2 * half, bias=False) for _ in range(3))
        self.o = nn.Linear(heads * 2 * half, c, bias=False)
        angles = torch.arange(length)[:, None] * torch.rand(half)[None]
        self.register_buffer("cos", torch.cat([angles.cos()] * 2, -1), persistent=False)
        self.register_buffer("sin", torch.cat([angles.sin()] * 2, -1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:2], self.heads, -1)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = self._turned(q), self._turned(k)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return x + self.o(y.transpose(1, 2).flatten(2))

    def _turned(self, t: Tensor) -> Tensor:
        a, b = t[..., : t.shape[-1] // 2], t[..., t.shape[-1] // 2 :]
        return t * self.cos + torch.cat([-b, a], -1) * self.sin


@stage
def rotary(pick: Random, c: int, length: int) -> Made:
    return Rotary(c, pick.randint(2, 4), pick.choice([1, 2]), length), c, length


class Mixer(nn.Module):
    """Layers along the positions, not the channels."""

    def __init__(self, c: int, length: int, hidden: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.LayerNorm(c)
        if kind == "gate":
            self.up, self.down = nn.Linear(c, 2 * hidden), nn.Linear(hidden, c)
            self.spatial = nn.Linear(length, length)
        else:
            self.up, self.down = nn.Linear(length, hidden), nn.Linear(hidden, length)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        if self.kind == "gate":
            u, v = functional.gelu(self.up(y)).chunk(2, dim=-1)
            return x + self.down(u * self.spatial(v.transpose(-1, -2)).transpose(-1, -2))
        return x + self.down(functional.gelu(self.up(y.transpose(1, 2)))).transpose(1, 2)


@stage
def mixer(pick: Random, c: int, length: int) -> Made:
    return Mixer(c, length, width(pick), pick.choice(["gate", "tokens"])), c, length


class Along(nn.Module):
    """Convolutions along the sequence."""

    def __init__(self, c: int, out: int, groups: int, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.conv = nn.Conv1d(c, out, 3, padding=0 if causal else 1, groups=groups)
        self.norm = nn.BatchNorm1d(out)

    def forward(self, x: Tensor) -> Tensor:
        y = x.transpose(1, 2)
        if self.causal:
            y = functional.pad(y, (2, 0))
        return functional.silu(self.norm(self.conv(y))).transpose(1, 2)


@stage
def along(pick: Random, c: int, length: int) -> Made:
    own = pick.random() < 0.4
    out = c if own else width(pick)
    return Along(c, out, c if own else 1, pick.random() < 0.5), out, length


class Recurrent(nn.Module):
    def __init__(self, c: int, hidden: int, layers: int, both: bool, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rnn = kind(c, hidden, layers, batch_first=True, bidirectional=both)

    def forward(self, x: Tensor) -> Tensor:
        out, _ = self.rnn(x)
        return out


@stage
def recurrent(pick: Random, c: int, length: int) -> Made:
    hidden, both = width(pick), pick.random() < 0.4
    layer = Recurrent(c, hidden, pick.choice([1, 1, 2]), both, pick.choice([nn.LSTM, nn.GRU]))
    return layer, hidden * (1 + both), length


class Projected(nn.Module):
    def __init__(self, c: int, out: int, kind: str, length: int) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.randn(c, out) * 0.4)
        self.positions = nn.Parameter(torch.randn(1, length, out))
        self.first = nn.Parameter(torch.randn(1, 1, out))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.einsum("nlc,cd->nld", x, self.weight) if self.kind == "einsum" else x @ self.weight
        y = y + self.positions
        if self.kind == "token":
            y = torch.cat([self.first.expand(x.shape[0], -1, -1), y[:, 1:]], dim=1)
        return y


@stage
def projected(pick: Random, c: int, length: int) -> Made:
    out = width(pick)
    return Projected(c, out, pick.choice(["einsum", "product", "token"]), length), out, length


class Merged(nn.Module):
    """Neighbouring tokens become one."""

    def __init__(self, c: int, out: int) -> None:
        super().__init__()
        self.c = c
        self.norm, self.reduce = nn.LayerNorm(2 * c), nn.Linear(2 * c, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(self.norm(x.reshape(x.shape[0], x.shape[1] // 2, 2 * x.shape[2])))


class Halves(nn.Module):
    def __init__(self, c: int, out: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(2 * c, out)

    def forward(self, x: Tensor) -> Tensor:
        return self.reduce(torch.cat([x[:, 0::2], x[:, 1::2]], -1))


@stage
def merged(pick: Random, c: int, length: int) -> Made:
    if length % 2:
        return feed_forward(pick, c, length)
    out = width(pick)
    return pick.choice([Merged, Halves])(c, out), out, length // 2
