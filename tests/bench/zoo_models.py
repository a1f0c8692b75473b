"""Networks for the zoo that classify no images: speech, text, sequences and pictures out of pictures.

Plain PyTorch, random weights, small enough for a laptop. `zoo_vision.py` has the detectors and other
networks that need torchvision.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.parametrizations import weight_norm

Inputs = tuple[Tensor, ...]


def images(*shape: int) -> Callable[[int], Inputs]:
    """Return a maker of standard-normal inputs (N, *shape)."""
    return lambda batch: (torch.randn(batch, *shape),)


def tokens(length: int, vocabulary: int) -> Callable[[int], Inputs]:
    """Return a maker of token numbers (N, length)."""
    return lambda batch: (torch.randint(vocabulary, (batch, length)),)


class UNet(nn.Module):
    """Four levels down by pooling, up by transposed convolutions, joined by concatenation."""

    def __init__(self, width: int = 24, classes: int = 2) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(4)]
        self.down = nn.ModuleList(_twice(a, b) for a, b in zip([3, *widths], widths, strict=False))
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 2, stride=2) for a, b in pairs)
        self.join = nn.ModuleList(_twice(2 * b, b) for _, b in pairs)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, block in enumerate(self.down):
            x = block(F.max_pool2d(x, 2) if level else x)
            skips.append(x)
        skips.pop()
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), skips.pop()], dim=1))
        return self.head(x)


def _twice(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
        nn.Conv2d(outside, outside, 3, padding=1, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(),
    )


class RecurrentSpotter(nn.Module):
    """Keyword spotter: 40 mel bands a frame, two recurrent layers, the last frame decides."""

    def __init__(self, kind: type[nn.RNNBase], hidden: int = 128, words: int = 12) -> None:
        super().__init__()
        self.project = nn.Linear(40, 96)
        self.recurrent = kind(96, hidden, num_layers=2, batch_first=True)
        self.head = nn.Linear(hidden, words)

    def forward(self, frames: Tensor) -> Tensor:
        hidden, _ = self.recurrent(torch.relu(self.project(frames)))
        return self.head(hidden[:, -1])


class TemporalNet(nn.Module):
    """Dilated causal convolutions over time with residuals (Bai et al. 2018, arXiv:1803.01271)."""

    def __init__(self, width: int = 64, levels: int = 5, classes: int = 10, normed: bool = False) -> None:
        super().__init__()
        wrap = weight_norm if normed else nn.Identity()
        self.stem = nn.Conv1d(8, width, 1)
        self.first = nn.ModuleList(
            wrap(nn.Conv1d(width, width, 3, dilation=2**level)) for level in range(levels)
        )
        self.second = nn.ModuleList(
            wrap(nn.Conv1d(width, width, 3, dilation=2**level)) for level in range(levels)
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for level, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            past = (2 * 2**level, 0)
            inner = torch.relu(first(F.pad(x, past)))
            x = torch.relu(x + second(F.pad(inner, past)))
        return self.head(x[:, :, -1])


class GptBlock(nn.Module):
    """Pre-norm causal self-attention with one fused projection, then a GELU network."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.expand, self.shrink = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        grid = (batch, length, self.heads, width // self.heads)
        q, k, v = (part.view(grid).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, dim=-1))
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.shrink(F.gelu(self.expand(self.norm2(x))))


class Gpt(nn.Module):
    """A small GPT: learned positions, output weights tied to the token embedding."""

    def __init__(self, width: int = 128, heads: int = 4, depth: int = 4, vocabulary: int = 512) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(GptBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.tokens(numbers) + self.places(torch.arange(numbers.shape[1], device=numbers.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class LlamaBlock(nn.Module):
    """Pre-norm grouped-query attention with rotated positions, then a SwiGLU network."""

    def __init__(self, width: int, heads: int, shared: int) -> None:
        super().__init__()
        self.head_width = width // heads
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, shared * self.head_width, bias=False)
        self.value = nn.Linear(width, shared * self.head_width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate, self.up = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, 3 * width, bias=False)
        self.down = nn.Linear(3 * width, width, bias=False)

    def forward(self, x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
        normed = self.norm1(x)
        q, k, v = (self._heads(layer(normed)) for layer in (self.query, self.key, self.value))
        q, k = _rotated(q, cosine, sine), _rotated(k, cosine, sine)
        seen = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        normed = self.norm2(x)
        return x + self.down(F.silu(self.gate(normed)) * self.up(normed))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)


def _rotated(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)


class Llama(nn.Module):
    """A small decoder with grouped-query attention (8 heads on 2), RMS norm and rotary positions."""

    def __init__(self, width: int = 128, depth: int = 3, vocabulary: int = 512, length: int = 32) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(LlamaBlock(width, heads=8, shared=2) for _ in range(depth))
        self.norm, self.head = nn.RMSNorm(width), nn.Linear(width, vocabulary, bias=False)
        half = width // 8 // 2
        angles = torch.outer(torch.arange(length), 10000.0 ** (-torch.arange(half) / half))
        self.register_buffer("cosine", angles.cos())
        self.register_buffer("sine", angles.sin())

    def forward(self, numbers: Tensor) -> Tensor:
        x = self.tokens(numbers)
        for block in self.blocks:
            x = block(x, self.cosine, self.sine)
        return self.head(self.norm(x))


class SpeechEncoder(nn.Module):
    """PyTorch's own transformer encoder over frames, the mean over time decides."""

    def __init__(self, width: int = 96, classes: int = 12) -> None:
        super().__init__()
        self.project = nn.Linear(40, width)
        layer = nn.TransformerEncoderLayer(width, 4, 4 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.encoder(self.project(frames)).mean(dim=1))


class Autoencoder(nn.Module):
    """Three strided convolutions down, three transposed ones up."""

    def __init__(self) -> None:
        super().__init__()
        down, up = [(3, 32), (32, 64), (64, 128)], [(128, 64), (64, 32)]
        self.encoder = nn.Sequential(*(_strided(nn.Conv2d, a, b) for a, b in down), nn.Conv2d(128, 32, 1))
        self.decoder = nn.Sequential(
            nn.Conv2d(32, 128, 1),
            *(_strided(nn.ConvTranspose2d, a, b) for a, b in up),
            nn.ConvTranspose2d(32, 3, 4, stride=2, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def _strided(kind: type[nn.Conv2d | nn.ConvTranspose2d], inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        kind(inside, outside, 4, stride=2, padding=1), nn.BatchNorm2d(outside), nn.LeakyReLU()
    )


class Crnn(nn.Module):
    """Text line reader: convolutions, then a bidirectional LSTM along the width (Shi et al. 2015)."""

    def __init__(self, symbols: int = 37, hidden: int = 96) -> None:
        super().__init__()
        steps = [(1, 32, (2, 2)), (32, 64, (2, 2)), (64, 128, (2, 1)), (128, 128, (2, 1))]
        self.features = nn.Sequential(*(_pooled(*step) for step in steps))
        self.recurrent = nn.LSTM(128 * 2, hidden, num_layers=2, bidirectional=True)
        self.head = nn.Linear(2 * hidden, symbols)

    def forward(self, line: Tensor) -> Tensor:
        maps = self.features(line)
        steps = maps.permute(3, 0, 1, 2).flatten(2)
        return self.head(self.recurrent(steps)[0])


def _pooled(inside: int, outside: int, pool: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, padding=1), nn.BatchNorm2d(outside), nn.ReLU(), nn.MaxPool2d(pool)
    )


class DsCnn(nn.Module):
    """Wide depthwise-separable keyword spotter, DS-CNN-L (Zhang et al. 2017, arXiv:1711.07128)."""

    def __init__(self, width: int = 276, depth: int = 5, words: int = 12) -> None:
        super().__init__()
        stem = [nn.Conv2d(1, width, (10, 4), stride=2, padding=(5, 1)), nn.BatchNorm2d(width), nn.ReLU()]
        self.features = nn.Sequential(*stem, *(_separable(width) for _ in range(depth)))
        self.head = nn.Linear(width, words)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.adaptive_avg_pool2d(self.features(x), 1).flatten(1))


def _separable(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, padding=1, groups=width),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
    )


class SuperResolution(nn.Module):
    """Three times the size by pixel shuffle (ESPCN, Shi et al. 2016), with a residual trunk."""

    def __init__(self, width: int = 48, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.trunk = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width), nn.Conv2d(width, width, 3, padding=1)
            )
            for _ in range(depth)
        )
        self.grow = nn.Sequential(nn.Conv2d(width, width * 9, 3, padding=1), nn.PixelShuffle(3))
        self.head = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.trunk:
            x = x + block(x)
        return self.head(self.grow(x))


class Waveform(nn.Module):
    """Raw audio at 16 kHz through strided conv1d with group norm (M5-like, Dai et al. 2016)."""

    def __init__(self, words: int = 12) -> None:
        super().__init__()
        widths = [(1, 64, 80, 4), (64, 64, 3, 1), (64, 128, 3, 1), (128, 256, 3, 1)]
        self.features = nn.Sequential(
            *(
                nn.Sequential(nn.Conv1d(a, b, k, stride=s), nn.GroupNorm(8, b), nn.GELU(), nn.MaxPool1d(4))
                for a, b, k, s in widths
            )
        )
        self.head = nn.Linear(256, words)

    def forward(self, wave: Tensor) -> Tensor:
        return self.head(self.features(wave).mean(dim=-1))


# name: (maker of the module, maker of inputs for a batch, the modules whose output is the model's)
OWN: dict[str, tuple[Callable[[], nn.Module], Callable[[int], Inputs], tuple[str, ...]]] = {
    "autoencoder": (Autoencoder, images(3, 64, 64), ("decoder.3",)),
    "crnn": (Crnn, images(1, 32, 96), ("head",)),
    "ds_cnn_wide": (DsCnn, images(1, 49, 10), ("head",)),
    "gpt": (Gpt, tokens(32, 512), ("head",)),
    "gru_spotter": (lambda: RecurrentSpotter(nn.GRU), images(49, 40), ("head",)),
    "llama": (Llama, tokens(32, 512), ("head",)),
    "lstm_spotter": (lambda: RecurrentSpotter(nn.LSTM), images(49, 40), ("head",)),
    "speech_encoder": (SpeechEncoder, images(49, 40), ("head",)),
    "super_resolution": (SuperResolution, images(3, 24, 24), ("head",)),
    "temporal_net": (TemporalNet, images(8, 100), ("head",)),
    "temporal_net_weight_norm": (lambda: TemporalNet(normed=True), images(8, 100), ("head",)),
    "u_net": (UNet, images(3, 64, 64), ("head",)),
    "waveform": (Waveform, images(1, 8000), ("head",)),
}
