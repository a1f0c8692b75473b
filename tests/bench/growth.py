"""How the work of slimming grows with the model: residual stacks of 10 to 1,000 convolutions.

    python tests/bench/growth.py [--layers 10 30 100 300 1000]

Prints a markdown table; `torch.export`'s own time is kept apart. Growth is linear where the last column stays
the same from row to row.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline import slim, trace, uniform_plan


class Block(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + x)


def stack(layers: int, width: int = 16) -> nn.Module:
    """Return a residual network of `layers` convolutions."""
    blocks = (Block(width) for _ in range((layers - 2) // 2))
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), *blocks, nn.Conv2d(width, 10, 1)).eval()


class ExportClock:
    """Adds up the time spent in `torch.export.export`."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._export: Callable[..., Any] = torch.export.export

    def __enter__(self) -> ExportClock:
        torch.export.export = self._timed  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        torch.export.export = self._export

    def _timed(self, *args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return self._export(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - start


def main() -> None:
    """Measure every size three times and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    measure(10)  # the first export loads half of PyTorch
    print("| layers | torch.export, s | trace, s | plan, s | slim, s | ms a layer beyond export |")
    print("|---:|---:|---:|---:|---:|---:|")
    for layers in options.layers:
        runs = [measure(layers) for _ in range(options.repeats)]
        export, traced, plan, slimmed = (sorted(each)[len(runs) // 2] for each in zip(*runs, strict=True))
        each = 1000 * (traced + plan + slimmed) / layers
        print(f"| {layers} | {export:.2f} | {traced:.3f} | {plan:.3f} | {slimmed:.3f} | {each:.2f} |")


def measure(layers: int) -> tuple[float, float, float, float]:
    """Return the seconds of export, trace beyond it, plan and slim."""
    model, image = stack(layers), torch.zeros(1, 3, 8, 8)
    with ExportClock() as clock:
        start = time.perf_counter()
        graph = trace(model, image)
        traced = time.perf_counter() - start - clock.seconds
    start = time.perf_counter()
    plan = uniform_plan(graph)
    planned = time.perf_counter() - start
    start = time.perf_counter()
    slim(model, plan)
    return clock.seconds, traced, planned, time.perf_counter() - start


if __name__ == "__main__":
    main()
