"""The three parts of a data set, and how validation is held out of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError

if TYPE_CHECKING:
    import torch

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Split:
    """Examples as they were stored, not preprocessed.

    Attributes:
        inputs: (N, C, H, W), uint8 or float32.
        targets: (N,), int64, class numbers from 0.
    """

    inputs: torch.Tensor
    targets: torch.Tensor

    def __len__(self) -> int:
        return len(self.targets)


@dataclass(frozen=True)
class Splits:
    """What training, choosing and the last word each may see; no example is in two of them."""

    train: Split
    validation: Split
    test: Split

    @property
    def classes(self) -> int:
        """The number of classes that the targets speak of."""
        return 1 + max(int(part.targets.max()) for part in (self.train, self.validation, self.test))


def shuffled(split: Split, seed: int) -> torch.Tensor:
    """Return the numbers of all examples in an order that depends on `seed` and their count alone."""
    import torch

    return torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))


def hold_out(train: Split, share: float, seed: int) -> tuple[Split, Split]:
    """Part `train` into what is left for training and a validation split, the same share of every class.

    The choice depends on `seed` and the targets alone. Both parts keep the order of `train`.

    Raises:
        DataError: one of the two parts would be empty.
    """
    generator = np.random.default_rng(seed)
    chosen = pick_by_class(train.targets.numpy(), share, generator.permutation)
    if not 0 < len(chosen) < len(train):
        raise DataError(
            f"validation_share {share:g} of {len(train)} training examples leaves "
            f"{len(train) - len(chosen)} for training and {len(chosen)} for validation",
            hint="choose another share, or give more data",
        )
    rest = np.setdiff1d(np.arange(len(train)), chosen)
    return select(train, rest), select(train, chosen)


def pick_by_class(
    targets: npt.NDArray[np.integer], share: float, order: Callable[[Indices], Indices]
) -> Indices:
    """Return the sorted indices of about `share` of every class: its first members by `order`."""
    picked: list[Indices] = []
    for label in np.unique(targets):
        members = order(np.flatnonzero(targets == label))
        picked.append(members[: round(share * len(members))])
    return np.sort(np.concatenate(picked)) if picked else np.empty(0, np.int64)


def select(split: Split, indices: Indices) -> Split:
    """Return the examples at `indices`, in that order."""
    import torch

    index = torch.from_numpy(np.ascontiguousarray(indices, dtype=np.int64))
    return Split(split.inputs[index], split.targets[index])
