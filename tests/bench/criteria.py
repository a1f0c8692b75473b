"""Which units go: criteria side by side at the same widths, before any training.

    python tests/bench/criteria.py --model resnet20 [--keep 0.5] [--plans 3] [--images 10000]

The first plan keeps the same share of every group, the others random ones around it. For each criterion Markdown: the
loss on the calibration images and the test accuracy, batch norms recalibrated, of each plan. "by loss, alone" takes for
each group the criterion whose half of the units loses the least while all else is whole; "by loss, together" begins
with the best criterion for half of all groups at once, and changes a group's where that lowers the loss of the whole,
as a deploy does; the last two rows choose among fewer criteria, with the small batches of Taylor alone.
PIPELINE_DATA says where CIFAR-10 and the weights are.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.data.preprocess import apply
from pipeline.data.splits import Split, shuffled
from pipeline.graph import trace
from pipeline.host_memory import keep_freed_memory
from pipeline.prune import score, slim
from pipeline.recover import accuracy, batch_statistics, recalibrate_batch_norm
from pipeline.search import choose_units, kept_indices, searchable
from pipeline.task import Task, load_task

EXAMPLES = 1024
BATCH = 128
SMALL = "taylor, batches of 8"
SPREAD = 0.35  # of the random plans' shares
Widths = Mapping[str, int]
Scores = Mapping[str, np.ndarray]


class Bench:
    """One trained network, and the losses of what is left of it."""

    def __init__(self, task: Task, model: nn.Module, images: int) -> None:
        self.task = task
        self.splits = self.task.load_data()
        self.model = model.eval()
        test = self.splits.test
        self.test = Split(test.inputs[:images], test.targets[:images])
        order = shuffled(self.splits.train, self.task.seed)[:EXAMPLES]
        self._inputs = apply(self.task.preprocess, self.splits.train.inputs[order])
        self._targets = self.splits.train.targets[order]
        self.graph = searchable(trace(self.model, self._inputs[:1]))
        self.full = {group.name: group.width for group in self.graph.groups}
        self.groups = [group.name for group in self.graph.groups if group.name in self.graph.choosable]

    def scores(self, criterion: str, batch: int = BATCH) -> Scores:
        found = score(self.model, self.graph, criterion, self._batches(batch))
        return {name: np.asarray(values) for name, values in found.items()}

    def cut(self, scores: Scores, widths: Widths) -> nn.Module:
        return slim(self.model, self.graph.plan(kept_indices(scores, {**self.full, **widths}))).eval()

    def loss(self, scores: Scores, widths: Widths) -> float:
        return self.loss_of(self.cut(scores, widths))

    def loss_of(self, model: nn.Module) -> float:
        total = 0.0
        with torch.inference_mode(), batch_statistics(model):
            for inputs, targets in self._batches(BATCH):
                total += float(functional.cross_entropy(model(inputs), targets, reduction="sum"))
        return total / len(self._targets)

    def accuracy(self, scores: Scores, widths: Widths) -> float:
        return self.accuracy_of(self.cut(scores, widths))

    def accuracy_of(self, model: nn.Module) -> float:
        task = self.task
        recalibrate_batch_norm(model, split=self.splits.train, preprocess=task.preprocess, seed=task.seed)
        return accuracy(model, self.test, task.preprocess)

    def as_a_deploy(self) -> Scores:
        """Return scores by the criteria that a deploy chooses for each group."""
        single = {SMALL: self.scores("taylor", 8), "l1": self.scores("l1"), "l2": self.scores("l2")}
        return self.together(single)

    def together(self, single: Mapping[str, Scores]) -> Scores:
        half = self.half()
        found = choose_units(single, half, lambda scores: self.loss(scores, half), lambda *_: None)
        return {name: np.asarray(values) for name, values in found.importance.items()}

    def half(self) -> dict[str, int]:
        return {name: max(1, self.full[name] // 2) for name in self.groups}

    def plans(self, keep: float, count: int) -> list[dict[str, int]]:
        """Return widths: the share `keep` of every group first, then random shares around it."""
        random = np.random.default_rng(self.task.seed)
        plans = []
        for number in range(count):
            shares = random.uniform(-SPREAD, SPREAD, len(self.groups)) * (number > 0) + keep
            kept = zip(self.groups, np.clip(shares, 0.1, 1.0), strict=True)
            plans.append({name: max(1, round(self.full[name] * share)) for name, share in kept})
        return plans

    def _batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        yield from zip(torch.split(self._inputs, size), torch.split(self._targets, size), strict=True)


def main() -> None:
    options = _options()
    keep_freed_memory()
    task = load_task(f"cifar10_{options.model}.toml")
    bench = Bench(task, task.build_model(), options.images)
    ways: dict[str, Callable[[], Scores]] = {
        "taylor, batches of 128": lambda: bench.scores("taylor"),
        SMALL: lambda: bench.scores("taylor", 8),
        "l1": lambda: bench.scores("l1"),
        "l2": lambda: bench.scores("l2"),
    }
    single = {name: way() for name, way in ways.items()}
    half = bench.half()
    mixed = {
        "by loss, alone": _alone(bench, single, half),
        "by loss, together": bench.together(single),
        "together, l1 and taylor": bench.together({name: single[name] for name in (SMALL, "l1")}),
        "together, as a deploy": bench.together({name: single[name] for name in (SMALL, "l1", "l2")}),
    }
    plans = bench.plans(options.keep, options.plans)
    heads = " | ".join(f"plan {number}: loss | test, %" for number in range(1, len(plans) + 1))
    print(f"| criterion | {heads} |\n|---|{'---:|---:|' * len(plans)}")
    for name, scores in {**single, **mixed}.items():
        cells = [f"{bench.loss(scores, plan):.3f} | {bench.accuracy(scores, plan):.2f}" for plan in plans]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="resnet20", choices=["resnet20", "resnet56"])
    parser.add_argument("--keep", type=float, default=0.5, help="share of a group's units")
    parser.add_argument("--plans", type=int, default=3)
    parser.add_argument("--images", type=int, default=10_000, help="of the test set")
    return parser.parse_args()


def _alone(bench: Bench, single: Mapping[str, Scores], half: Widths) -> Scores:
    found = {name: np.zeros(width) for name, width in bench.full.items()}
    for name, width in half.items():
        found[name] = min(single.values(), key=lambda scores: bench.loss(scores, {name: width}))[name]
    return found


if __name__ == "__main__":
    main()
