"""How many threads this computer should train with.

More threads are not always faster: when another process keeps a core busy, the threads wait for each other at every
operator, and two were 24 times slower than one on a two-core host. So a few training steps are timed with each count.
The count changes sums in their last bits; a run therefore decides once and keeps to it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

PATIENCE_S = 1.5
TIMED_STEPS = 3
WORTH_IT = (
    0.9  # more threads must save a tenth of the time: they also heat the machine and disturb measurements
)


def best_thread_count(train_step: Callable[[], object]) -> int:
    """Time `train_step` with one thread and with all that PyTorch would take; return the better count."""
    most = torch.get_num_threads()
    alone = _seconds(train_step, 1)
    together = _seconds(train_step, most) if most > 1 else alone
    torch.set_num_threads(most)
    return most if together < WORTH_IT * alone else 1


def _seconds(train_step: Callable[[], object], threads: int) -> float:
    """Return the median time of a step; a count that is hopelessly slow is not given all of them."""
    torch.set_num_threads(threads)
    train_step()
    times: list[float] = []
    begun = time.monotonic()
    while len(times) < TIMED_STEPS and time.monotonic() - begun < PATIENCE_S:
        start = time.monotonic()
        train_step()
        times.append(time.monotonic() - start)
    return sorted(times)[len(times) // 2]
