"""The schedule of several cuts: where each is to land, and how long the model recovers after it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent / "search"))

from synthetic_device import MEASURED

from pipeline.errors import InputError
from pipeline.measurement import Measurement
from pipeline.method import AS_USUAL, Method, epochs_of_cut, make_method, targets
from pipeline.profile import Limit

LATENCY = Limit("latency", 5.0, "p50", "5 ms")
FILE = Limit("file", 1.0, "p50", "1 MB")


def at(ms: float, megabytes: float = 0.5) -> Measurement:
    latency = replace(MEASURED.latency_ms, p50=ms)
    return replace(MEASURED, latency_ms=latency, file_bytes=int(megabytes * 1e6))


def test_each_cut_left_takes_the_same_share() -> None:
    (first,) = targets([LATENCY], at(20.0), 2)
    assert first.value == pytest.approx(10.0)
    (first,) = targets([LATENCY], at(40.0), 3)
    assert first.value == pytest.approx(20.0)


def test_a_cut_that_went_further_leaves_less_to_the_next() -> None:
    assert targets([LATENCY], at(8.0), 2)[0].value == pytest.approx(40.0**0.5)


def test_the_last_cut_has_the_budgets_themselves() -> None:
    assert targets([LATENCY, FILE], at(20.0, 4.0), 1) == (LATENCY, FILE)


def test_a_budget_that_holds_already_stays() -> None:
    assert targets([LATENCY, FILE], at(20.0, 0.9), 3)[1] == FILE


@pytest.mark.parametrize(("epochs", "cuts"), [(1, 1), (1, 3), (10, 1), (10, 2), (10, 3), (55, 4)])
def test_epochs_add_up_and_every_cut_has_one(epochs: int, cuts: int) -> None:
    shares = [epochs_of_cut(epochs, number, cuts) for number in range(1, cuts + 1)]
    assert min(shares) >= 1
    assert sum(shares) == max(epochs, cuts)
    assert shares[-1] >= epochs / 2


def test_without_epochs_no_cut_has_any() -> None:
    assert [epochs_of_cut(0, number, 3) for number in (1, 2, 3)] == [0, 0, 0]


def test_flags_make_a_method() -> None:
    assert make_method(None, None, None) == AS_USUAL
    assert make_method("netadapt", 12, 2) == Method("netadapt", 12, 2)
    with pytest.raises(InputError, match='"netadpt"') as caught:
        make_method("netadpt", None, None)
    with pytest.raises(InputError, match="magic") as unlike:
        make_method("magic", None, None)
    assert "netadapt" in str(unlike.value.hint)
    assert 'did you mean "netadapt"' in str(caught.value.hint)
