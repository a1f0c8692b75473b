"""The device's own spread: which verdicts another measurement may turn."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "search"))

from synthetic_device import MEASURED

from pipeline.measurement import During, Measurement
from pipeline.noise import close_calls, doubt, room, spread
from pipeline.profile import Limit


def measured(p50: float, steadiness: float = 0.0, others: float | None = None) -> Measurement:
    latency = replace(MEASURED.latency_ms, p50=p50, p90=1.5 * p50)
    return replace(
        MEASURED,
        latency_ms=latency,
        steadiness=steadiness,
        energy_mj=2 * p50,
        during=During(others_share=others),
    )


def limit(value: float, resource: str = "latency", percentile: str = "p50") -> Limit:
    return Limit(resource, value, percentile, "50%")  # type: ignore[arg-type]


def test_the_spread_is_half_the_range_of_the_least_steady_measurement() -> None:
    assert spread([measured(1.0, 0.02)]) == pytest.approx(0.01)
    assert spread([measured(1.0, 0.02), measured(1.0, 0.08)]) == pytest.approx(0.04)


def test_two_measurements_that_differ_show_a_spread_that_each_alone_does_not() -> None:
    assert spread([measured(1.0, 0.001), measured(1.1, 0.001)]) == pytest.approx(0.1)


def test_a_flagged_measurement_is_believed_less_however_steady_it_was() -> None:
    flagged = replace(measured(1.0, 0.002), flags=("disturbed",))
    assert spread([flagged]) == pytest.approx(0.025)
    assert spread([measured(1.0, 0.002), flagged]) == pytest.approx(0.025)
    assert spread([replace(flagged, steadiness=0.1)]) == pytest.approx(0.05)


def test_a_core_below_its_full_pace_all_along_may_be_off_by_as_much() -> None:
    slowed = replace(measured(2.0), flags=("slowed",), during=During(slowed_share=1.0, slowdown=2.1))
    assert spread([slowed]) == pytest.approx(1.1)
    left_out = replace(slowed, flags=(), during=During(slowed_share=0.4, slowdown=2.1))
    assert spread([left_out]) == 0.0
    assert spread([slowed, measured(1.0, 0.02)]) == pytest.approx(0.01), (
        "at full pace the model was timed after it"
    )
    assert spread([measured(1.0, 0.02), slowed]) == pytest.approx(1.1), "the last one counts, and may be off"


@pytest.mark.parametrize(("steadiness", "expected"), [(0.0, 0.01), (0.04, 0.02), (0.5, 0.03)])
def test_a_budget_leaves_room_for_the_spread_within_bounds(steadiness: float, expected: float) -> None:
    assert room("latency", measured(1.0, steadiness)) == pytest.approx(expected)
    assert room("energy", measured(1.0, steadiness)) == pytest.approx(expected)


def test_a_file_needs_no_room_and_memory_the_same_for_large_and_small_models() -> None:
    small, large = (replace(measured(1.0), model_peak_bytes=peak) for peak in (5_000_000, 50_000_000))
    assert room("file", small) == 0
    assert room("model_peak", small) == pytest.approx(0.05)
    assert room("model_peak", large) == pytest.approx(0.005)


@pytest.mark.parametrize(
    ("p50", "close"), [(0.97, False), (0.985, True), (1.0, True), (1.015, True), (1.03, False)]
)
def test_a_verdict_is_close_within_the_spread_on_both_sides(p50: float, close: bool) -> None:
    assert bool(close_calls([measured(p50, 0.04)], [limit(1.0)])) is close


def test_the_last_measurement_is_the_verdict() -> None:
    found = close_calls([measured(0.99, 0.0), measured(1.01, 0.0)], [limit(1.0)])
    assert found == {"latency": pytest.approx(0.01)}


@pytest.mark.parametrize("last", [0.99, 1.01])
def test_where_one_measurement_met_the_budget_and_another_missed_it_nothing_is_sure(last: float) -> None:
    assert close_calls([measured(2.0 - last, 0.0), measured(last, 0.0)], [limit(1.0)])


def test_the_percentile_of_the_budget_is_looked_at_and_energy_like_latency() -> None:
    noisy = measured(1.0, 0.04)
    assert close_calls([noisy], [limit(1.5, percentile="p90")])
    assert not close_calls([noisy], [limit(1.0, percentile="p90")])
    assert close_calls([noisy], [limit(2.01, "energy")]) == {"energy": pytest.approx(2 / 2.01 - 1)}


def test_a_file_is_never_in_doubt_and_memory_whatever_the_latency_does() -> None:
    made = replace(measured(1.0, 0.2), file_bytes=1_000_000, model_peak_bytes=10_000_000)
    assert not close_calls([made], [limit(1.0, "file")])
    assert doubt([made], [limit(1.0, "file")]) == ""
    assert close_calls([made], [limit(10.2, "model_peak")]) == {"model_peak": pytest.approx(-0.2 / 10.2)}
    assert not close_calls([made], [limit(10.3, "model_peak")])


def test_what_was_not_measured_is_not_in_doubt() -> None:
    made = replace(measured(1.0, 0.2), energy_mj=None, model_peak_bytes=None)
    assert not close_calls([made], [limit(1.0, "energy"), limit(1.0, "model_peak")])


def test_a_doubt_says_how_close_how_noisy_and_who_else_was_busy() -> None:
    said = doubt([measured(0.99, 0.04, others=0.31)], [limit(1.0)])
    assert "latency is 1.0 % below its budget" in said
    assert "up to 2.0 %" in said
    assert "others took 31.0 % of the cores' time" in said
    quiet = doubt([measured(1.01, 0.04, others=0.01)], [limit(1.0)])
    assert "latency is 1.0 % over its budget" in quiet
    assert "others" not in quiet
    assert doubt([measured(0.5, 0.04)], [limit(1.0)]) == ""
