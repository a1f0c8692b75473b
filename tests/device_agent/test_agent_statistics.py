import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent.statistics import percentile, spread_ms, steadiness, summary_ms, window_medians


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50), st.floats(0, 100))
def test_percentiles_are_those_of_linear_interpolation(values, percent):
    assert percentile(sorted(values), percent) == pytest.approx(np.percentile(values, percent), abs=1e-3)


@pytest.mark.parametrize(
    ("runs", "stated"),
    [
        (63, []),
        (64, ["p90"]),
        (129, ["p90"]),
        (130, ["p90", "p95"]),
        (661, ["p90", "p95"]),
        (662, ["p90", "p95", "p99"]),
    ],
)
def test_a_percentile_is_stated_only_with_enough_runs(runs, stated):
    figures, missing = summary_ms([1_000_000] * runs)
    for name in ("p90", "p95", "p99"):
        assert figures[name] == (1.0 if name in stated else None)
        assert (f"latency_ms.{name}" in missing) == (name not in stated)


def test_the_summary_is_in_milliseconds():
    figures, _ = summary_ms([1_000_000, 2_000_000, 6_000_000])
    assert (figures["p50"], figures["mean"], figures["min"], figures["max"]) == (2.0, 3.0, 1.0, 6.0)


def test_steadiness_is_the_spread_of_the_windows_medians_over_the_median():
    assert steadiness([100] * 50) == 0
    assert steadiness([100] * 40 + [110] * 10) == pytest.approx(0.1)
    assert steadiness([100, 1000] + [100] * 48) == 0, "one outlier does not move a window's median"


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=50))
def test_the_spread_is_the_interquartile_range(samples):
    upper, lower = np.percentile(samples, [75, 25])
    assert spread_ms(samples) == pytest.approx((upper - lower) / 1e6, abs=1e-9)


def test_a_windows_median_is_that_of_its_own_samples():
    assert window_medians([5, 5, 1, 1, 2, 2, 9, 9, 3, 3]) == [5, 1, 2, 9, 3]
    assert window_medians([7, 3]) == [7, 3], "fewer samples than windows"
