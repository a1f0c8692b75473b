"""scikit-learn's digits."""

import torch

from pipeline.data import digits


def test_the_test_split_is_a_fifth_of_every_class_and_never_changes() -> None:
    train, test = digits.load()
    assert (len(train), len(test)) == (1438, 359)
    assert test.targets.bincount().tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    again = digits.load()[1]
    assert torch.equal(test.inputs, again.inputs)
    assert int(test.inputs.sum()) == 111_869


def test_values_are_stored_raw() -> None:
    train, _ = digits.load()
    assert train.inputs.dtype == torch.uint8
    assert tuple(train.inputs.shape[1:]) == (1, 8, 8)
    assert int(train.inputs.max()) == 16
