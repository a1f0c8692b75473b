"""What is said when no candidate meets the budgets, and that the budgets it offers are such that would hold."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parent / "search"))

from synthetic_device import MEASURED

from pipeline.candidate import Candidate
from pipeline.infeasible import closest_miss, holding, measured_alike
from pipeline.profile import Budget, Limit, parse_budget

DENSE = replace(
    MEASURED,
    latency_ms=replace(MEASURED.latency_ms, p50=2.0, p90=3.0),
    file_bytes=1_000_000,
    model_peak_bytes=20_000_000,
)


def candidate(
    name: str, ms: float, file_mb: float = 0.5, *, width: int = 8, steadiness: float = 0.0
) -> Candidate:
    made = replace(
        DENSE,
        latency_ms=replace(DENSE.latency_ms, p50=ms, p90=1.5 * ms),
        file_bytes=int(file_mb * 1e6),
        steadiness=steadiness,
    )
    shape: dict[str, Any] = dict.fromkeys(Candidate.__dataclass_fields__)
    return Candidate(**{**shape, "name": name, "widths": {"g": width}, "measurement": made})


def limits(*budgets: str) -> list[Limit]:
    return [parse_budget(text).resolve(DENSE) for text in budgets]


def flags(message: str) -> list[Budget]:
    """The budgets that a message offers, read as the command reads them."""
    words = message.replace(";", " ").split()
    return [parse_budget(words[at + 1]) for at, word in enumerate(words) if word == "--budget"]


def test_the_one_budget_in_the_way_is_named_alone_with_one_that_would_hold() -> None:
    near = candidate("fit 1", 0.86)
    asked = limits("latency=3%", "file=60%")
    error = closest_miss([candidate("baseline", 2.0, 1.0, width=16), near], asked, ("latency",))
    assert error.exit_code == 3
    assert "latency is in the way" in error.message
    assert "'fit 1' (latency 1333.3 % over)" in error.message
    assert "--budget latency=44%" in error.message
    assert "file" not in error.message


def test_of_two_in_the_way_both_are_named_and_both_budgets_offered() -> None:
    error = closest_miss([candidate("fit 1", 1.2, 0.7)], limits("latency=50%", "file=0.5MB"), ())
    assert "latency and file are in the way" in error.message
    assert error.message.endswith("--budget latency=61% --budget file=0.7MB")


@pytest.mark.parametrize(
    ("budget", "ms", "offered"),
    [
        ("latency=50%", 1.1, "latency=56%"),  # 55.55 %: 1 % more than was measured
        ("latency=p90:50%", 1.2, "latency=p90:61%"),
        ("latency=1ms", 1.1, "latency=1.12ms"),
        ("latency=0.02ms", 0.0301, "latency=0.0305ms"),
        ("latency=0.1s", 123.4, "latency=125ms"),
        ("latency=1s", 4567.0, "latency=4620ms"),
    ],
)
def test_an_offer_has_the_form_of_the_budget_and_is_rounded_up(budget: str, ms: float, offered: str) -> None:
    (limit,) = limits(budget)
    assert holding(limit, candidate("fit 1", ms)) == offered


def test_memory_is_offered_with_room_for_what_differs_between_processes() -> None:
    (limit,) = limits("model_peak=50%")
    assert holding(limit, candidate("fit 1", 1.0)) == "model_peak=102%"  # 20 MB of 20 MB, and 0.25 MB


def test_a_noisy_device_is_offered_more_room() -> None:
    (limit,) = limits("latency=50%")
    assert holding(limit, candidate("fit 1", 1.1, steadiness=0.05)) == "latency=57%"


@given(
    ms=st.floats(0.01, 500),
    file_mb=st.floats(0.001, 90),
    budgets=st.sampled_from([("latency=1%", "file=0.1%"), ("latency=0.005ms", "file=0.5KB")]),
)
def test_what_is_offered_holds_as_it_was_measured(
    ms: float, file_mb: float, budgets: tuple[str, ...]
) -> None:
    near = candidate("fit 1", ms, file_mb)
    asked = [replace(each, value=each.value / 1000) for each in limits(*budgets)]
    dense = replace(
        near.measurement,
        latency_ms=replace(DENSE.latency_ms, p50=2 * ms),
        file_bytes=2 * near.measurement.file_bytes,
    )
    if budgets[0].endswith("%"):
        asked = [parse_budget(text).resolve(dense) for text in budgets]
    offered = flags(closest_miss([near], asked, ()).message)
    assert len(offered) == 2
    assert near.meets([each.resolve(dense) for each in offered])


def test_the_baseline_is_the_nearest_where_nothing_came_nearer() -> None:
    dense = candidate("baseline", 2.0, 1.0, width=16)
    error = closest_miss([dense, candidate("fit 1", 4.0, 0.9)], limits("latency=50%"), ())
    assert "'baseline'" in error.message


def test_a_model_that_met_its_budget_once_and_missed_it_once_is_told_as_noise() -> None:
    """The same widths before and after training: nothing but the device's spread lies between the two."""
    tried = [candidate("fit 1", 0.98), candidate("recovered 1", 1.02)]
    error = closest_miss(tried, limits("latency=50%"), ())
    assert "'recovered 1' (latency 2.0 % over)" in error.message
    assert "latency is 2.0 % over its budget" in error.message
    assert "up to 4.1 %" in error.message
    assert "min_duration_s" in error.hint


def test_a_clear_miss_says_nothing_of_noise() -> None:
    assert "up to" not in closest_miss([candidate("fit 1", 1.5)], limits("latency=50%"), ("latency",)).message


def test_models_are_alike_by_their_widths_and_by_how_they_run() -> None:
    one, other = candidate("fit 1", 1.0), candidate("recovered 1", 1.1)
    wider, threaded = candidate("fit 2", 1.2, width=16), candidate("fit 3", 0.9)
    threaded = replace(threaded, measurement=replace(threaded.measurement, threads=4))
    found = measured_alike([one, wider, other, threaded], other)
    assert found == [one.measurement, other.measurement]
