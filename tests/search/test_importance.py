from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ModelError
from pipeline.search import kept_indices
from pipeline.search.importance import kept_shares


def test_the_most_important_units_stay_in_their_order():
    importance = {"a": np.array([0.1, 3.0, 0.2, 2.0]), "b": np.array([5.0, 6.0])}
    assert kept_indices(importance, {"a": 2, "b": 1}) == {"a": (1, 3), "b": (1,)}


def test_of_equally_important_units_the_first_stay():
    assert kept_indices({"a": np.ones(5)}, {"a": 3}) == {"a": (0, 1, 2)}


def test_a_width_keeps_the_share_of_its_best_units():
    importance = {"a": np.array([1.0, 4.0, 2.0]), "b": np.array([3.0])}
    kept = kept_shares(importance, {"a": (1, 2, 3), "b": (1,)})
    np.testing.assert_allclose(kept["a"], [0.4, 0.6, 0.7])
    np.testing.assert_allclose(kept["b"], [0.3])


def test_where_nothing_is_important_every_unit_counts_the_same():
    kept = kept_shares({"a": np.zeros(3), "b": np.zeros(1)}, {"a": (1, 3), "b": (1,)})
    np.testing.assert_allclose(kept["a"], [0.25, 0.75])


@pytest.mark.parametrize("values", [None, np.ones(3), np.array([1.0, np.nan]), np.array([1.0, np.inf])])
def test_missing_or_useless_importance_names_its_group(values):
    with pytest.raises(ModelError, match="layer1"):
        kept_shares({} if values is None else {"layer1": values}, {"layer1": (1, 2)})


def test_width_none_keeps_no_unit_and_no_share():
    importance = {"a": np.array([1.0, 4.0]), "b": np.array([3.0])}
    assert kept_indices(importance, {"a": 0, "b": 1}) == {"a": (), "b": (0,)}
    np.testing.assert_allclose(kept_shares(importance, {"a": (0, 1, 2), "b": (1,)})["a"], [0, 0.5, 0.625])
    nothing = {"a": np.zeros(2), "b": np.zeros(2)}
    np.testing.assert_allclose(kept_shares(nothing, {"a": (0, 2), "b": (2,)})["a"], [0, 0.5])
