"""The small parts of training: losses, the rate, seeds, scores."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pipeline.data.preprocess import Preprocess
from pipeline.data.splits import Split
from pipeline.recover import accuracy
from pipeline.recover.loss import label_loss, teacher_loss
from pipeline.recover.precision import use_bf16
from pipeline.recover.randomness import generator, seed_of
from pipeline.recover.schedule import learning_rate


def test_a_student_that_agrees_has_no_teacher_loss() -> None:
    logits = torch.randn(6, 4)
    assert teacher_loss(logits, logits + 3.0, 4.0).item() == pytest.approx(0.0, abs=1e-6)


def test_the_teacher_loss_is_the_softened_divergence_times_the_squared_temperature() -> None:
    student, teacher, temperature = torch.randn(5, 7), torch.randn(5, 7), 3.0
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    expected = 9.0 * (p * (p / q).log()).sum(1).mean()
    assert teacher_loss(student, teacher, temperature).item() == pytest.approx(expected.item(), rel=1e-5)


def test_label_smoothing_spreads_a_share_over_all_classes() -> None:
    logits, targets = torch.randn(8, 5), torch.arange(8) % 5
    logs = logits.log_softmax(1)
    expected = -(0.9 * logs[torch.arange(8), targets] + 0.1 * logs.mean(1)).mean()
    assert label_loss(logits, targets, 0.1).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_rate_rises_straight_and_falls_as_half_a_cosine() -> None:
    rates = [learning_rate(1.0, step, 4, 12) for step in range(12)]
    assert rates[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rates[8] == pytest.approx(0.5)
    assert rates[4:] == sorted(rates[4:], reverse=True)


def test_seeds_differ_by_purpose_and_repeat() -> None:
    assert seed_of(1, 2, "data") == seed_of(1, 2, "data")
    assert (
        len({seed_of(1, 2, "data"), seed_of(2, 1, "data"), seed_of(12, "data"), seed_of(1, 2, "model")}) == 4
    )
    assert torch.equal(torch.rand(3, generator=generator(5)), torch.rand(3, generator=generator(5)))


def test_a_stated_precision_is_taken_as_it_is() -> None:
    assert use_bf16("bf16")
    assert not use_bf16("fp32")


class Oracle(nn.Module):
    """Says the class that the image's first pixel names; in training mode always class 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        right = nn.functional.one_hot(x[:, 0, 0, 0].long(), 4).float()
        return right * (0.0 if self.training else 1.0)


def test_accuracy_counts_right_answers_in_percent_over_uneven_batches() -> None:
    inputs = torch.zeros(7, 1, 2, 2, dtype=torch.uint8)
    inputs[:, 0, 0, 0] = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    split = Split(inputs, torch.tensor([0, 1, 2, 3, 1, 1, 0]))
    model = Oracle().train()
    assert accuracy(model, split, Preprocess(), batch_size=3) == pytest.approx(500 / 7)
    assert model.training
