"""How the work of slimming grows with the model: residual stacks of 10 to 1,000 convolutions.

    python tests/bench/growth.py [--layers 10 30 100 300 1000]

Prints a markdown table of processor seconds of one thread; `torch.export`'s own time is kept apart. Growth is linear
where the last column stays the same from row to row.
"""

from __future__ import annotations

import argparse
import time

import torch
from export_clock import ExportClock
from torch import Tensor, nn

from pipeline import slim, trace, uniform_plan

CLOCK = ExportClock()


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


def main() -> None:
    """Measure every size three times and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layers", type=int, nargs="+", default=[10, 30, 100, 300, 1000])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    measure(10)  # the first export loads half of PyTorch
    print("| layers | torch.export, s | trace, s | plan, s | slim, s | ms a layer beyond export |")
    print("|---:|---:|---:|---:|---:|---:|")
    for layers in options.layers:
        runs = [measure(layers) for _ in range(options.repeats)]
        export, traced, plan, slimmed = (sorted(each)[len(runs) // 2] for each in zip(*runs, strict=True))
        each = 1000 * (traced + plan + slimmed) / layers
        print(f"| {layers} | {export:.2f} | {traced:.3f} | {plan:.3f} | {slimmed:.3f} | {each:.2f} |")


def measure(layers: int) -> tuple[float, float, float, float]:
    """Return the processor seconds of export, trace beyond it, plan and slim."""
    model, image = stack(layers), torch.zeros(1, 3, 8, 8)
    CLOCK.spent = 0.0
    start = time.process_time()
    graph = trace(model, image)
    traced = time.process_time() - start - CLOCK.spent
    start = time.process_time()
    plan = uniform_plan(graph)
    planned = time.process_time() - start
    start = time.process_time()
    slim(model, plan)
    return CLOCK.spent, traced, planned, time.process_time() - start


if __name__ == "__main__":
    main()
