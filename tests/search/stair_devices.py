"""Devices whose layer times are staircases that a test chooses, and how a search is led through its rounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from small_graphs import macs

from pipeline.search import EMPTY, LayerShape, Staircase

EMPTY_MS = 0.004
MS_PER_MILLION = 0.01

Clock = Callable[[LayerShape], float]


def stairs(tile_out: int = 1, tile_in: int = 1) -> Clock:
    """Layers are computed in whole tiles of output and of input channels; a depthwise one in tiles of `tile_out`."""

    def ms(shape: LayerShape) -> float:
        if shape == EMPTY:
            return EMPTY_MS
        full = tile_out * math.ceil(shape.out_width / tile_out) / shape.out_width
        if shape.groups == 1:
            full *= tile_in * math.ceil(shape.in_width / tile_in) / shape.in_width
        return EMPTY_MS + MS_PER_MILLION * macs(shape) * full

    return ms


def noisy(clock: Clock, sigma: float, seed: int = 0) -> Clock:
    """The same device, each answer off by a relative deviation of `sigma`."""
    source = np.random.default_rng(seed)
    return lambda shape: clock(shape) * float(max(1 + sigma * source.standard_normal(), 0.2))


def lead(search: Staircase, clock: Clock, noise: float = 0.003) -> list[tuple[LayerShape, ...]]:
    """Answer all that the search asks; return what it asked, round by round."""
    asked = []
    while shapes := search.ask():
        asked.append(shapes)
        search.tell({shape: clock(shape) for shape in shapes}, noise)
    return asked
