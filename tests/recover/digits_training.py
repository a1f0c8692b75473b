"""A small real training for the tests here."""

from __future__ import annotations

import copy
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pipeline.data import digits
from pipeline.data.preprocess import Preprocess
from pipeline.data.splits import Splits, hold_out
from pipeline.recipe import Recipe
from pipeline.recover import TrainResult, train

PREPROCESS = Preprocess(scale=1 / 16, mean=(0.3,), std=(0.4,))
RECIPE = Recipe(
    epochs=5, batch_size=64, learning_rate=0.1, weight_decay=1e-3, warmup_epochs=1, augment="shift"
)


def make_splits() -> Splits:
    whole, test = digits.load()
    return Splits(*hold_out(whole, 0.2, seed=0), test)


def make_model(seed: int = 0, dropout: float = 0.1) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Flatten(),
            nn.Linear(256, 10),
        )


def silent(*, done: int, of: int, note: str = "") -> None:
    del done, of, note


def run(model: nn.Module, checkpoint: Path, recipe: Recipe = RECIPE, **changes: object) -> TrainResult:
    arguments = {
        "splits": make_splits(),
        "preprocess": PREPROCESS,
        "seed": 3,
        "teacher": None,
        "progress": silent,
    } | changes
    return train(model, recipe=recipe, checkpoint=checkpoint, **arguments)  # type: ignore[arg-type]


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def train_in_child(checkpoint: Path, weights: Path, reports: Connection) -> None:
    """Train with a teacher in a process of its own, send every report, and save the final weights."""
    torch.set_num_threads(1)
    recipe = Recipe(epochs=6, batch_size=64, augment="shift", distill_weight=0.5, precision="bf16")
    model = make_model()
    run(
        model,
        checkpoint,
        recipe,
        teacher=make_model(1),
        progress=lambda **report: reports.send(report["done"]),
    )
    save_file(model.state_dict(), weights)
