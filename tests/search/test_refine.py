"""What groups lose together: steps are judged by the loss of the whole plan, and lead to plans that lose less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_device import WIDTHS, SyntheticDevice, run, stairs

from pipeline.search import MilpAllocator, Problem, Refined, refine, staying
from pipeline.search.refine import AWAY
from pipeline.search.strategies import ExactFeedback

NAMES = list(WIDTHS)


def quietly(done: int, of: int) -> None:
    pass


class Joint:
    """A loss of which each group's own curve tells only a part: some pairs lose much more together."""

    def __init__(self, ground_rises: Mapping[str, np.ndarray], together: float, seed: int) -> None:
        self.rises = ground_rises
        pick = np.random.default_rng(seed)
        self.weights = together * pick.random((len(NAMES), len(NAMES))) ** 4
        self.asked: list[dict[str, int]] = []

    def __call__(self, widths: Mapping[str, int]) -> float:
        self.asked.append(dict(widths))
        alone = np.array(
            [self.rises[name][WIDTHS[name].index(widths.get(name, WIDTHS[name][-1]))] for name in NAMES]
        )
        return 0.1 + float(alone.sum() + alone @ self.weights @ alone)


def begin(problem: Problem, rises: Mapping[str, np.ndarray], loss: Joint) -> Refined:
    widths = MilpAllocator().allocate(problem).widths
    return Refined({name: [float(rise) for rise in rises[name]] for name in NAMES}, {}, widths, loss(widths))


def ground(seed: int, share: float = 0.5) -> tuple[Problem, Mapping[str, np.ndarray]]:
    device = SyntheticDevice(stairs, seed=seed)
    outlook = device.outlook(latency=share)
    return outlook.problem(), device.survey().rises


@settings(max_examples=10, deadline=None, derandomize=True)
@given(seed=st.integers(0, 999), share=st.floats(0.4, 0.8), together=st.floats(0, 5), reach=st.integers(1, 3))
def test_a_step_never_loses_more_stays_within_the_budget_and_the_reach(seed, share, together, reach):
    problem, rises = ground(seed, share)
    loss = Joint(rises, together, seed)
    start = begin(problem, rises, loss)
    after = refine(problem, start, loss, MilpAllocator(), quietly, reach)
    assert after == start or after.loss < start.loss
    assert after.loss == loss(after.widths)
    choice = {name: problem.widths[name].index(width) for name, width in after.widths.items()}
    assert not problem.overruns(choice)
    for name, width in start.widths.items():
        assert abs(choice[name] - problem.widths[name].index(width)) <= reach


def test_where_groups_lose_more_together_the_plan_loses_less_after_a_few_rounds():
    won = []
    for seed in range(6):
        problem, rises = ground(seed)
        loss = Joint(rises, 10.0, seed)
        now = first = begin(problem, rises, loss)
        for _ in range(4):
            now = refine(problem, now, loss, MilpAllocator(), quietly)
        won.append(1 - now.loss / first.loss)
    assert sum(share > 0.05 for share in won) >= 4


def test_where_losses_add_up_there_is_nothing_to_refine():
    problem, rises = ground(3)
    loss = Joint(rises, 0.0, 3)
    start = begin(problem, rises, loss)
    assert refine(problem, start, loss, MilpAllocator(), quietly) == start


@pytest.mark.parametrize("reach", [1, 3])
def test_the_ends_of_the_reach_are_tried_once_with_all_others_as_in_the_plan(reach):
    problem, rises = ground(1)
    loss = Joint(rises, 10.0, 1)
    start = begin(problem, rises, loss)
    loss.asked.clear()
    counted = []
    refine(problem, start, loss, MilpAllocator(), lambda done, of: counted.append((done, of)), reach)
    expected = []
    for name in NAMES:
        centre, last = WIDTHS[name].index(start.widths[name]), len(WIDTHS[name]) - 1
        ends = (max(centre - reach, 0), min(centre + reach, last))
        expected += [{**start.widths, name: WIDTHS[name][end]} for end in ends if end != centre]
    assert loss.asked[: len(expected)] == expected
    assert counted == [(number + 1, len(expected)) for number in range(len(expected))]


def test_a_step_that_loses_more_is_tried_again_over_a_shorter_way():
    problem, rises = ground(4, 0.4)
    loss = Joint(rises, 10.0, 4)
    start = begin(problem, rises, loss)
    far = []

    def measure(widths: Mapping[str, int]) -> float:
        steps = [
            abs(WIDTHS[name].index(widths[name]) - WIDTHS[name].index(start.widths[name])) for name in NAMES
        ]
        if sum(step > 0 for step in steps) > 1 and max(steps) > 1:
            far.append(widths)
            return 100.0
        return loss(widths)

    after = refine(problem, start, measure, MilpAllocator(), quietly, 2)
    assert far
    assert after.loss < start.loss
    assert all(last - first <= 2 for first, last in after.near.values())


def test_curves_rise_from_the_full_width_on_and_go_on_beyond_the_reach_as_they_were_known():
    problem, rises = ground(4, 0.4)
    loss = Joint(rises, 10.0, 4)
    start = begin(problem, rises, loss)
    after = refine(problem, start, loss, MilpAllocator(), quietly, 1)
    assert after != start
    for name, curve in after.curves.items():
        assert curve[-1] == 0
        assert curve == sorted(curve, reverse=True)
        first, last = after.near[name]
        for low, high in ((0, first), (last, len(curve) - 1)):
            assert curve[low] - curve[high] == pytest.approx(rises[name][low] - rises[name][high])


def test_plans_stay_near():
    problem, _ = ground(1)
    near = {name: (len(choices) - 2, len(choices) - 1) for name, choices in problem.widths.items()}
    bounded = staying(problem, near)
    found = MilpAllocator().allocate(replace(bounded, limits={AWAY: 0.0, "latency": 1e9}))
    assert found.widths == {name: choices[-1] for name, choices in problem.widths.items()}
    low = dict.fromkeys(problem.widths, (0, 1))
    found = MilpAllocator().allocate(replace(staying(problem, low), limits={AWAY: 0.0}))
    assert all(problem.widths[name].index(width) <= 1 for name, width in found.widths.items())


def test_a_search_stays_near_and_leaves_where_nothing_there_fits():
    device = SyntheticDevice(stairs)
    start = device.start(measurements=3, latency=0.6)
    free = run(ExactFeedback(start), device)[0][0].widths
    place = {name: WIDTHS[name].index(width) for name, width in free.items()}
    around = {name: (max(at - 1, 0), max(at - 1, 1)) for name, at in place.items()}
    there = run(ExactFeedback(replace(start, near=around)), device)
    first, last = next(iter(around.values()))
    assert first <= WIDTHS[NAMES[0]].index(there[0][0].widths[NAMES[0]]) <= last
    assert all(
        low <= WIDTHS[name].index(there[0][0].widths[name]) <= high for name, (low, high) in around.items()
    )
    whole = {name: (len(choices) - 1, len(choices) - 1) for name, choices in WIDTHS.items()}
    left = run(ExactFeedback(replace(start, near=whole)), device)
    assert left[0][0].feasible
    assert left[0][0].widths == free
