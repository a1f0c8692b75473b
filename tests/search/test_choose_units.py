"""The choice of what ranks a group's units, by the loss of the whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from pipeline.search import Scores, choose_units, kept_indices

GROUPS = ("a", "b", "c")
HALVES = dict.fromkeys(GROUPS, 2)
# Units 0 and 1 by the first criterion, 2 and 3 by the second, 1 and 2 by the third
SCORES = {
    "first": {name: np.array([4.0, 3.0, 2.0, 1.0]) for name in GROUPS},
    "second": {name: np.array([1.0, 2.0, 3.0, 4.0]) for name in GROUPS},
    "third": {name: np.array([1.0, 4.0, 3.0, 2.0]) for name in GROUPS},
}


def kept(importance: Scores) -> tuple[tuple[int, ...], ...]:
    found = kept_indices(importance, HALVES)
    return tuple(found[name] for name in GROUPS)


def quiet(done: int, of: int) -> None:
    assert 0 < done <= of


@pytest.mark.parametrize("seed", range(20))
def test_never_worse_than_the_best_single_criterion_and_no_single_change_helps_more(seed: int) -> None:
    random = np.random.default_rng(seed)
    sets = list(dict.fromkeys(kept(each)[0] for each in SCORES.values()))
    losses = {
        choice: float(random.uniform(0.5, 3.0)) for choice in itertools.product(sets, repeat=len(GROUPS))
    }
    asked = []

    def measure(importance: Scores) -> float:
        asked.append(kept(importance))
        return losses[asked[-1]]

    found = choose_units(SCORES, HALVES, measure, quiet)
    chosen = {name: np.asarray(values) for name, values in found.importance.items()}
    assert found.loss == losses[kept(chosen)]
    assert found.loss <= min(losses[kept(each)] for each in SCORES.values())
    assert all(np.array_equal(chosen[name], SCORES[found.criteria[name]][name]) for name in GROUPS)
    assert len(asked) <= 3 + 2 * len(GROUPS)
    last = {**chosen, "c": SCORES["second"]["c"]}
    assert found.loss <= losses[kept(last)], "the last group was tried with all others as they are"


def test_what_two_groups_lose_together_decides() -> None:
    """Alone each group would do better by the second criterion; both together lose much."""

    def measure(importance: Scores) -> float:
        second = sum(units == (2, 3) for units in kept(importance))
        return {0: 1.0, 1: 0.6, 2: 2.0, 3: 3.0}[second]

    found = choose_units(
        {name: SCORES[name] for name in ("first", "second")}, HALVES, measure, lambda *_: None
    )
    assert sorted(found.criteria.values()) == ["first", "first", "second"]
    assert found.loss == 0.6


def test_criteria_that_keep_the_same_units_cost_one_loss() -> None:
    asked = []

    def measure(importance: Scores) -> float:
        asked.append(kept(importance))
        return 1.0

    alike = {
        "first": SCORES["first"],
        "again": {name: 2 * values for name, values in SCORES["first"].items()},
    }
    ends = []
    found = choose_units(alike, HALVES, measure, lambda done, of: ends.append((done, of)))
    assert found.criteria == dict.fromkeys(GROUPS, "first"), "of equals the first"
    assert len(asked) == len(alike), "no group was tried again"
    assert ends[-1] == (5, 5), "what need not be measured is behind, too"


def test_groups_that_cannot_be_cut_keep_the_values_of_the_best_criterion() -> None:
    found = choose_units(SCORES, {"a": 2}, lambda each: float(np.argmax(each["a"])), quiet)
    assert set(found.importance) == set(GROUPS)
    assert found.criteria == {"a": "first"}
