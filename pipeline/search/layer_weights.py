"""Weights for a layer that is only timed: random, but the same every time for the same shape."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from pipeline.search.shapes import LayerShape

SMALLEST = 1e-4  # zeros and denormals may run faster or slower than the weights of a real model


def random_weights(shape: LayerShape) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Return weight (out, in / groups, kernel height, kernel width), or (out, in) if linear, and bias (out,).

    Values are normal with a standard deviation of 1 / sqrt(fan-in), so that outputs are of the size of the
    inputs.
    """
    seed = int.from_bytes(hashlib.sha256(shape.key.encode()).digest()[:8], "big")
    source = np.random.default_rng(seed)
    inner = shape.in_width // shape.groups
    dims = (shape.out_width, inner) if shape.kind == "linear" else (shape.out_width, inner, *shape.kernel)
    weight = _away_from_zero(source.standard_normal(dims) / math.sqrt(math.prod(dims[1:])))
    return weight, _away_from_zero(source.standard_normal(shape.out_width)) if shape.bias else None


def _away_from_zero(values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.where(np.abs(values) < SMALLEST, SMALLEST, values).astype(np.float32)
