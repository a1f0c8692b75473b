from __future__ import annotations

import numpy as np
import pytest

from pipeline.search import loss_curves, shares_kept


def test_measured_widths_are_exact_and_those_between_lie_on_a_line():
    asked = []

    def measure(widths):
        asked.append(dict(widths))
        return 1.0 + (16 - widths.get("a", 16)) ** 2 / 100

    curves = loss_curves({"a": (0, 2, 4, 6, 8, 10, 12, 14, 16)}, measure, lambda done, of: None)
    assert asked == [{}, {"a": 0}, {"a": 4}, {"a": 8}, {"a": 12}]
    assert curves["a"][::2] == pytest.approx([2.56, 1.44, 0.64, 0.16, 0.0])
    assert curves["a"][1] == pytest.approx((2.56 + 1.44) / 2)


def test_a_curve_never_falls_as_a_group_becomes_narrower_and_never_rewards_a_cut():
    losses = {16: 1.0, 12: 0.7, 8: 1.4, 4: 1.2, 0: 2.0}
    curves = loss_curves(
        {"a": (0, 4, 8, 12, 16)}, lambda widths: losses[widths.get("a", 16)], lambda done, of: None
    )
    assert curves["a"] == pytest.approx([1.0, 0.4, 0.4, 0.0, 0.0])


def test_each_group_is_cut_alone_and_progress_counts_all_points():
    asked, seen = [], []

    def measure(widths):
        asked.append(dict(widths))
        return 0.0

    loss_curves({"a": (1, 2), "b": (3, 6, 9)}, measure, lambda done, of: seen.append((done, of)))
    assert asked == [{}, {"a": 1}, {"b": 3}, {"b": 6}]
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_full_widths_keep_everything_and_the_narrowest_nothing():
    kept = shares_kept({"a": [3.0, 1.0, 0.0], "b": [1.0, 0.0]})
    assert kept["a"].tolist() == [0.0, 0.5, 0.75]
    assert kept["b"].tolist() == [0.0, 0.25]


def test_where_nothing_raises_the_loss_every_step_counts_the_same():
    kept = shares_kept({"a": [0.0, 0.0, 0.0], "b": [0.0, 0.0]})
    assert sum(float(curve[-1]) for curve in kept.values()) == pytest.approx(1.0)
    assert np.diff(kept["a"]).tolist() == pytest.approx([1 / 3, 1 / 3])


def test_a_group_with_one_width_has_nothing_to_lose():
    kept = shares_kept(loss_curves({"a": (4,)}, lambda widths: 1.0, lambda done, of: None))
    assert kept["a"].tolist() == [0.0]
