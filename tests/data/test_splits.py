"""Validation held out of training."""

import pytest
import torch

from pipeline.data.splits import Split, Splits, hold_out
from pipeline.errors import DataError


def numbered(count: int, classes: int = 4) -> Split:
    return Split(torch.arange(count).view(-1, 1, 1, 1), torch.arange(count) % classes)


def test_the_parts_are_disjoint_and_complete_and_keep_their_order() -> None:
    train, validation = hold_out(numbered(200), 0.1, seed=3)
    numbers = train.inputs.flatten().tolist(), validation.inputs.flatten().tolist()
    assert sorted(numbers[0] + numbers[1]) == list(range(200))
    assert numbers[0] == sorted(numbers[0])
    assert (train.inputs.flatten() % 4).equal(train.targets)


def test_every_class_gives_the_same_share() -> None:
    _, validation = hold_out(numbered(200), 0.1, seed=3)
    assert validation.targets.bincount().tolist() == [5, 5, 5, 5]


def test_the_seed_decides() -> None:
    first, again, other = (hold_out(numbered(200), 0.1, seed)[1].inputs for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)


@pytest.mark.parametrize("count", [4, 0])
def test_an_empty_part_is_refused(count: int) -> None:
    with pytest.raises(DataError, match=rf"validation_share 0\.1 of {count} training examples"):
        hold_out(numbered(count), 0.1, seed=0)


def test_classes_are_counted_over_all_parts() -> None:
    small = numbered(4, classes=2)
    assert Splits(small, small, numbered(5, classes=5)).classes == 5
