"""Training, resumable to the bit: after slimming, with the dense baseline as teacher, or from scratch.

A checkpoint is written after every epoch, and every random draw of an epoch comes from (seed, epoch) alone.
So a training that was killed at any moment and is called again ends with the same weights, bit by bit, as one
that ran through (on the same kind of processor, with the same number of threads).
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipeline.data.augment import augment
from pipeline.data.preprocess import Preprocess, apply
from pipeline.data.splits import Splits
from pipeline.errors import ModelError
from pipeline.recipe import Recipe
from pipeline.recover.checkpoint import (
    Checkpoint,
    EpochRecord,
    Standing,
    fingerprint,
    load_checkpoint,
    save_checkpoint,
)
from pipeline.recover.loss import label_loss, teacher_loss
from pipeline.recover.precision import use_bf16
from pipeline.recover.randomness import generator, seed_of
from pipeline.recover.schedule import learning_rate
from pipeline.recover.score import accuracy
from pipeline.watch import Advance

__all__ = ["EpochRecord", "TrainResult", "train"]

_STEPS_PER_REPORT = 10


@dataclass(frozen=True)
class TrainResult:
    """How a training went; accuracies in percent. `best_epoch` 0: no epoch beat the model as it was given."""

    best_validation: float
    best_epoch: int
    epochs: int
    history: tuple[EpochRecord, ...]


def train(
    model: nn.Module,
    *,
    splits: Splits,
    preprocess: Preprocess,
    recipe: Recipe,
    seed: int,
    checkpoint: Path,
    teacher: nn.Module | None,
    progress: Advance,
    validation_seen: bool = False,
) -> TrainResult:
    """Train `model` in place by `recipe`; it ends in eval mode with the weights of its best epoch.

    Where the teacher was trained on the validation examples (`validation_seen`), what is nearest to it scores best
    on them, which says nothing of others: then it ends with the last epoch's weights, and patience plays no part.

    SGD with Nesterov momentum; weight decay spares biases and norms (He et al. 2019, Bag of Tricks, section
    3.1); linear warm-up, then cosine. With a teacher the loss is distill_weight · T² · KL(teacher ‖ student)
    + (1 − distill_weight) · cross-entropy; the teacher itself is not changed.

    A killed training is called again with the same arguments, `model` as it was at first, and goes on from
    `checkpoint`. A file there that belongs to another training is replaced.

    Raises:
        ModelError: the loss stopped being a finite number.
        StorageError: the checkpoint cannot be written.
    """
    training = _Training(model, splits, preprocess, recipe, seed=seed, teacher=teacher, progress=progress)
    identity = training.fingerprint()
    standing, best = training.start(load_checkpoint(checkpoint, identity))
    patience = None if validation_seen else recipe.patience_epochs
    while standing.epoch < recipe.epochs and not _out_of_patience(standing, patience):
        record = training.epoch(standing)
        if record.validation_accuracy > standing.best_validation:
            standing = Standing(record.validation_accuracy, record.epoch, standing.history)
            best = training.weights()
        standing = dataclasses.replace(standing, history=(*standing.history, record))
        state = Checkpoint(standing, training.weights(), best, training.momentum())
        save_checkpoint(checkpoint, state, identity)
    training.finish(training.weights() if validation_seen else best)
    return TrainResult(standing.best_validation, standing.best_epoch, standing.epoch, standing.history)


def _out_of_patience(standing: Standing, patience: int | None) -> bool:
    return patience is not None and standing.epoch - standing.best_epoch >= patience


class _Training:
    """The moving parts of one training."""

    def __init__(
        self,
        model: nn.Module,
        splits: Splits,
        preprocess: Preprocess,
        recipe: Recipe,
        *,
        seed: int,
        teacher: nn.Module | None,
        progress: Advance,
    ) -> None:
        self._model, self._splits, self._preprocess = model, splits, preprocess
        self._recipe, self._seed, self._progress = recipe, seed, progress
        taught = teacher is not None and recipe.distill_weight > 0
        self._teacher = copy.deepcopy(teacher).eval() if teacher is not None and taught else None
        self._bf16 = use_bf16(recipe.precision)
        self._batch = min(recipe.batch_size, len(splits.train))
        self._steps = len(splits.train) // self._batch  # an incomplete last batch is left out
        self._parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._optimizer = _optimizer(self._parameters.values(), recipe)

    def fingerprint(self) -> str:
        """Name this training: two with the same name end with the same weights."""
        facts = {
            "recipe": dataclasses.asdict(self._recipe),
            "seed": self._seed,
            "bf16": self._bf16,
            "preprocess": dataclasses.asdict(self._preprocess),
        }
        tensors = {f"model {name}": tensor for name, tensor in self._model.state_dict().items()}
        if self._teacher is not None:
            tensors |= {f"teacher {name}": tensor for name, tensor in self._teacher.state_dict().items()}
        tensors["train"], tensors["validation"] = self._splits.train.targets, self._splits.validation.targets
        return fingerprint(facts, tensors)

    def start(self, checkpoint: Checkpoint | None) -> tuple[Standing, Mapping[str, Tensor]]:
        """Bring the model to where `checkpoint` left it; without one, score it as it is."""
        for module in (self._model, self._teacher):
            if module is not None:
                module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if checkpoint is None:
            return Standing(self._validation_accuracy()), self.weights()
        self._model.load_state_dict(checkpoint.weights)
        for name, momentum in checkpoint.momentum.items():
            parameter = self._parameters[name]
            self._optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
        return checkpoint.standing, checkpoint.best

    def epoch(self, standing: Standing) -> EpochRecord:
        """Train for the epoch after `standing` and score the result."""
        number = standing.epoch + 1
        self._model.train()
        total, rate = 0.0, 0.0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self._seed, number, "model"))  # dropout draws from the global generator
            for step, (inputs, targets) in enumerate(self._batches(number)):
                rate = self._set_rate((number - 1) * self._steps + step)
                total += self._step(inputs, targets, number)
                if step % _STEPS_PER_REPORT == 0:
                    self._report(number, step, total / (step + 1), standing)
        return EpochRecord(number, total / self._steps, rate, self._validation_accuracy())

    def finish(self, weights: Mapping[str, Tensor]) -> None:
        """Leave the model with these weights, in eval mode and torch's usual memory layout."""
        self._model.load_state_dict(weights)
        self._model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self._model.eval()

    def weights(self) -> dict[str, Tensor]:
        """Return a copy of the model's parameters and buffers."""
        return {name: tensor.detach().clone() for name, tensor in self._model.state_dict().items()}

    def momentum(self) -> dict[str, Tensor]:
        """Return the optimiser's momentum by parameter name; none for a parameter without a gradient."""
        state = self._optimizer.state
        buffers = {
            name: state[p].get("momentum_buffer") for name, p in self._parameters.items() if p in state
        }
        return {name: buffer for name, buffer in buffers.items() if buffer is not None}

    def _batches(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield an epoch's batches, shuffled, augmented and preprocessed."""
        split, draw = self._splits.train, generator(self._seed, number, "data")
        order = torch.randperm(len(split), generator=draw)[: self._steps * self._batch]
        for chosen in torch.split(order, self._batch):
            raw = augment(self._recipe.augment, split.inputs[chosen], draw)
            inputs = apply(self._preprocess, raw).contiguous(memory_format=torch.channels_last)
            yield inputs, split.targets[chosen]

    def _step(self, inputs: Tensor, targets: Tensor, epoch: int) -> float:
        self._optimizer.zero_grad(set_to_none=True)
        loss = self._loss(inputs, targets)
        value = loss.item()
        if not math.isfinite(value):
            raise ModelError(
                f"training diverged: the loss in epoch {epoch} is {value}",
                hint="lower learning_rate in the task's recipe",
            )
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        return value

    def _loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        logits = self._forward(self._model, inputs)
        labels = label_loss(logits, targets, self._recipe.label_smoothing)
        if self._teacher is None:
            return labels
        with torch.no_grad():
            answers = self._forward(self._teacher, inputs)
        weight = self._recipe.distill_weight
        return (1 - weight) * labels + weight * teacher_loss(
            logits, answers, self._recipe.distill_temperature
        )

    def _forward(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """Return float32 logits; weights, momentum and losses are float32 even where the middle is not."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._bf16):
            logits: Tensor = model(inputs)
        return logits.float()

    def _set_rate(self, step: int) -> float:
        recipe = self._recipe
        warmup, total = recipe.warmup_epochs * self._steps, recipe.epochs * self._steps
        rate = learning_rate(recipe.learning_rate, step, warmup, total)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        return rate

    def _report(self, number: int, step: int, loss: float, standing: Standing) -> None:
        epochs = self._recipe.epochs
        note = f"epoch {number}/{epochs}, loss {loss:.3f}, best {standing.best_validation:.2f} %"
        self._progress(done=(number - 1) * self._steps + step, of=epochs * self._steps, note=note)

    def _validation_accuracy(self) -> float:
        return accuracy(self._model, self._splits.validation, self._preprocess)


def _optimizer(parameters: Iterable[nn.Parameter], recipe: Recipe) -> torch.optim.SGD:
    everything = list(parameters)
    decayed = [parameter for parameter in everything if parameter.ndim > 1]
    spared = [parameter for parameter in everything if parameter.ndim <= 1]
    return torch.optim.SGD(
        [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
    )
