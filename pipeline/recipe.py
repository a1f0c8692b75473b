"""How a model is trained: the numbers of one training, from scratch or after slimming."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Augmentation = Literal["none", "crop-flip", "shift"]
Precision = Literal["fp32", "bf16", "auto"]


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with Nesterov momentum; the rate warms up, then a cosine takes it to 0.

    Attributes:
        epochs: passes over the training split.
        batch_size: examples a step.
        learning_rate: the highest rate, reached after `warmup_epochs`.
        momentum: 0..1.
        weight_decay: L2 penalty.
        warmup_epochs: fewer than `epochs`.
        label_smoothing: 0..1, the share of a target that is spread over all classes.
        augment: see `pipeline.data.augment`.
        distill_weight: 0..1, how much of the loss comes from the teacher's scores instead of the targets.
        distill_temperature: softens both scores (Hinton et al. 2015, Distilling the Knowledge in
            a Neural Network).
        patience_epochs: stop after so many epochs without a better validation accuracy; None: never.
        precision: of the training's arithmetic; "auto" takes bf16 where the processor is quick at it.
    """

    epochs: int
    batch_size: int = 128
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    augment: Augmentation = "none"
    distill_weight: float = 0.0
    distill_temperature: float = 4.0
    patience_epochs: int | None = None
    precision: Precision = "auto"
