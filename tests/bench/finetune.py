"""Training that goes on across a slimming: the pretrained ResNet-20 on CIFAR-10, momentum remapped or thrown away.

    PIPELINE_DATA=/folder/with/cifar-10-batches-bin:/folder/with/the/weights python tests/bench/finetune.py

The whole model is trained for a while, slimmed, and trained on twice from there: with the optimiser's state following
the surviving channels, and with a fresh optimiser. Same batches in both. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam, Optimizer

from pipeline import SlimmingWarning, remap_optimiser, slim, trace, uniform_plan
from pipeline.data.preprocess import apply
from pipeline.data.splits import Split
from pipeline.recover.score import accuracy
from pipeline.task import Task, load_task

TASK = Path(__file__).parents[2] / "examples" / "cifar10_resnet20.toml"
OPTIMISERS = {
    "SGD, momentum 0.9": lambda model: SGD(model.parameters(), 0.02, momentum=0.9, weight_decay=1e-4),
    "Adam": lambda model: Adam(model.parameters(), 1e-3),
}


def main() -> None:
    """Run both optimisers and print what became of the accuracy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keep", type=float, default=0.75)
    parser.add_argument("--before", type=int, default=100, help="steps of the whole model")
    parser.add_argument("--after", type=int, default=200, help="steps of the slimmed one")
    parser.add_argument("--test", type=int, default=2000, help="test images")
    options = parser.parse_args()
    warnings.simplefilter("ignore", SlimmingWarning)
    task = load_task(str(TASK))
    splits = task.load_data()
    test = Split(splits.test.inputs[: options.test], splits.test.targets[: options.test])
    print(
        "| optimiser | whole | slimmed, untrained | trained on, state remapped | trained on, fresh optimiser |"
    )
    print("|---|---:|---:|---:|---:|---:|")
    for name, make in OPTIMISERS.items():
        model = task.build_model()
        optimiser = make(model)
        train(model, optimiser, task, splits.train, range(options.before))
        whole = accuracy(model, test, task.preprocess)
        image = apply(task.preprocess, splits.train.inputs[:1])
        plan = uniform_plan(trace(model, image), keep=options.keep)
        slimmed = slim(model, plan)
        untrained = accuracy(slimmed, test, task.preprocess)
        fresh = copy.deepcopy(slimmed)
        remapped = remap_optimiser(optimiser, model, slimmed, plan)
        steps = range(options.before, options.before + options.after)
        train(slimmed, remapped, task, splits.train, steps)
        train(fresh, make(fresh), task, splits.train, steps)
        after = (accuracy(one, test, task.preprocess) for one in (slimmed, fresh))
        print(
            f"| {name} | {whole:.1f} % | {untrained:.1f} % | "
            + " | ".join(f"{each:.1f} %" for each in after)
            + " |"
        )


def count(model: nn.Module) -> int:
    """Return the number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def train(model: nn.Module, optimiser: Optimizer, task: Task, split: Split, steps: range) -> None:
    """Take steps of 128 images each, chosen by the number of the step."""
    model.train()
    for step in steps:
        chosen = torch.randint(len(split), (128,), generator=torch.Generator().manual_seed(step))
        inputs = apply(task.preprocess, split.inputs[chosen])
        optimiser.zero_grad()
        functional.cross_entropy(model(inputs), split.targets[chosen]).backward()
        optimiser.step()
    model.eval()


if __name__ == "__main__":
    main()
