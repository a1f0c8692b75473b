"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8 x 8 pixels, values 0 to 16."""

from __future__ import annotations

import numpy as np

from pipeline.data.splits import Indices, Split, pick_by_class, select

LABELS = tuple("0123456789")
_TEST_SHARE = 0.2


def load() -> tuple[Split, Split]:
    """Return train (1,438) and test (359): inputs uint8 (N, 1, 8, 8).

    The test split never changes: a fifth of every class, picked evenly over the order in which scikit-learn
    keeps them. Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998.
    """
    import torch
    from sklearn.datasets import load_digits

    bunch = load_digits()
    inputs = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)
    whole = Split(inputs, torch.from_numpy(bunch.target.astype(np.int64)))
    test = pick_by_class(bunch.target, _TEST_SHARE, _every_fifth_first)
    train = np.setdiff1d(np.arange(len(whole)), test)
    return select(whole, train), select(whole, test)


def _every_fifth_first(members: Indices) -> Indices:
    order = np.argsort(np.arange(len(members)) % 5, kind="stable")
    return members[order]
