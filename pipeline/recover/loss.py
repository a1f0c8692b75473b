"""What training minimises: the distance to the labels, and to a teacher's answers where there is one."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def label_loss(logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    """Return the mean cross-entropy of `logits` (N, classes) against class numbers (N,)."""
    return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)


def teacher_loss(logits: Tensor, teacher_logits: Tensor, temperature: float) -> Tensor:
    """Return T² · KL(teacher ‖ student), both softened by the temperature T, averaged over the batch.

    T² keeps the gradients' size independent of T (Hinton, Vinyals and Dean 2015, Distilling the Knowledge in
    a Neural Network, section 2).
    """
    student = functional.log_softmax(logits.float() / temperature, dim=1)
    teacher = functional.log_softmax(teacher_logits.float() / temperature, dim=1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="batchmean", log_target=True)
