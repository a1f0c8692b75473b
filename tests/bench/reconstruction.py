"""What fitting layers anew brings back before any training, at the same widths and units.

    python tests/bench/reconstruction.py --folder DIR [--models resnet20 ds_cnn] [--keep 0.5] [--plans 3]

Units are chosen as a deploy does; the first plan keeps the same share of every group, the others random ones around it.
Markdown: the loss on the calibration images and the test accuracy with batch norms recalibrated, as cut and with layers
fitted anew. The ResNets of 20 and 56 layers have trained weights, the others learn a little first (`loop_data.py`).
PIPELINE_DATA says where CIFAR-10, the weights and the spoken digits are.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from criteria import Bench
from loop import SHAPES, task_of
from torch import nn

from pipeline.host_memory import keep_freed_memory
from pipeline.prune import slim
from pipeline.recover import accuracy, images_to_fit, reconstruct, train
from pipeline.search import kept_indices
from pipeline.task import Task
from pipeline.watch import ignore


def main() -> None:
    """Print a line for each model and plan."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models = ["resnet20", "resnet56", *SHAPES]
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=models, choices=models)
    parser.add_argument("--keep", type=float, default=0.5, help="share of a group's units")
    parser.add_argument("--plans", type=int, default=3)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    keep_freed_memory()
    print(
        "| model | whole: test, % | plan | loss, as cut | test, % | loss, fitted anew | test, % | seconds |"
    )
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name in options.models:
        task = task_of(name, options.folder)
        _lines(name, task, _trained(task, options.folder / f"{name}.checkpoint"), options.keep, options.plans)


def _trained(task: Task, checkpoint: Path) -> nn.Module:
    model = task.build_model()
    if task.weights is None and task.baseline_recipe is not None:
        train(
            model,
            splits=task.load_data(),
            preprocess=task.preprocess,
            recipe=task.baseline_recipe,
            seed=task.seed,
            checkpoint=checkpoint,
            teacher=None,
            progress=ignore,
        )
    return model.eval()


def _lines(name: str, task: Task, model: nn.Module, keep: float, plans: int) -> None:
    bench = Bench(task, model, 10_000)
    whole, scores = accuracy(model, bench.test, task.preprocess), bench.as_a_deploy()
    inputs = images_to_fit(bench.splits.train, task.preprocess, task.seed)
    for number, widths in enumerate(bench.plans(keep, plans), start=1):
        plan = bench.graph.plan(kept_indices(scores, {**bench.full, **widths}))
        cells = []
        for anew in (False, True):
            slimmed = slim(model, plan).eval()
            begun = time.perf_counter()
            if anew:
                reconstruct(slimmed, whole=model, plan=plan, inputs=inputs, seed=task.seed, progress=ignore)
            seconds = time.perf_counter() - begun
            cells.append(f"{bench.loss_of(slimmed):.3f} | {bench.accuracy_of(slimmed):.2f}")
        print(f"| {name} | {whole:.2f} | {number} | {' | '.join(cells)} | {seconds:.0f} |", flush=True)


if __name__ == "__main__":
    main()
