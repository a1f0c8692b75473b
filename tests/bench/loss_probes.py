"""The loss that a cut costs, measured in two ways: batch norms recalibrated first, or with each batch's own statistics.

    python tests/bench/loss_probes.py [--task cifar10_resnet20.toml]

Each choosable group of the task's model is cut, alone, to up to four widths; both ways give the rise in loss on the
same 1,024 training images. Prints Markdown: how alike they are, and how long each takes (one thread).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch.nn.functional import cross_entropy

from pipeline import baseline
from pipeline.candidate import Built
from pipeline.device.registry import open_device
from pipeline.profile import load_profile
from pipeline.search import candidate_widths, kept_indices
from pipeline.store import Store
from pipeline.survey import Study, loss_at, study
from pipeline.task import load_task
from pipeline.watch import Silent
from pipeline.workshop import Workshop

Loss = Callable[[Mapping[str, int]], float]


def main() -> None:
    """Measure all probes in both ways."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--task", default="cifar10_resnet20.toml")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, open_device("local") as device:
        run = Store(Path(folder)).create({"bench": "loss probes"})
        shop = Workshop(run, load_task(options.task), load_profile("local"), device, Silent())
        start = baseline.prepare(shop)
        known = study(shop, start)
        probes = [{}, *_probes(known)]
        ways: dict[str, Loss] = {
            "recalibrated": lambda widths: _recalibrated(shop, known, start, widths),
            "the batch's own": lambda widths: loss_at(shop, known, start, widths),
        }
        rises, seconds = {}, {}
        for name, loss in ways.items():
            began = time.perf_counter()
            losses = np.array([loss(widths) for widths in probes])
            seconds[name] = time.perf_counter() - began
            rises[name] = losses[1:] - losses[0]
        run.close()
    one, other = rises.values()
    print("| batch norms | probes | seconds |\n|---|---:|---:|")
    for name, spent in seconds.items():
        print(f"| {name} | {len(probes)} | {spent:.1f} |")
    print(
        f"\ncorrelation {np.corrcoef(one, other)[0, 1]:.4f}, of ranks {spearmanr(one, other).statistic:.4f}"
    )


def _probes(known: Study) -> list[dict[str, int]]:
    found = []
    for name, choices in candidate_widths(known.graph).items():
        places = sorted({round(step * (len(choices) - 1) / 4) for step in range(4)})
        found += [{name: choices[place]} for place in places if choices[place] < choices[-1]]
    return found


def _recalibrated(shop: Workshop, known: Study, start: Built, widths: Mapping[str, int]) -> float:
    model = shop.slimmed(start, known.graph.plan(kept_indices(known.importance, widths)))
    total, count = 0.0, 0
    with torch.inference_mode():
        for inputs, targets in shop.calibration_batches():
            total += float(cross_entropy(model(inputs), targets, reduction="sum"))
            count += len(targets)
    return total / count


if __name__ == "__main__":
    sys.exit(main())
