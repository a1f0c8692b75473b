"""The learning rate of every step."""

from __future__ import annotations

import math


def learning_rate(peak: float, step: int, warmup_steps: int, total_steps: int) -> float:
    """Return the rate of the `step`-th step (from 0): straight up to `peak`, then half a cosine to 0.

    The cosine is SGDR's without restarts (Loshchilov and Hutter 2017, equation 5).
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * done))
