from __future__ import annotations

from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from small_graphs import residual, resnet20
from test_table import table_of

from pipeline.errors import InputError
from pipeline.search import (
    Allocation,
    CostRow,
    GreedyAllocator,
    MilpAllocator,
    Problem,
    build_problem,
    candidate_widths,
)
from pipeline.search.importance import kept_shares

ALLOCATORS = [MilpAllocator(), GreedyAllocator()]


def random_problem(seed: int, tightness: float = 0.6) -> Problem:
    """Three to five groups in a row, costs that mostly rise with the width, as real staircases do."""
    source = np.random.default_rng(seed)
    names = [f"g{number}" for number in range(source.integers(3, 6))]
    widths = {name: tuple(range(2, 2 * int(source.integers(2, 5)) + 1, 2)) for name in names}
    kept = {name: np.sort(source.random(len(widths[name]))) for name in names}
    total = sum(float(values[-1]) for values in kept.values())
    rows = []
    for resource in ("latency", "file", "model_peak", "model_peak"):
        pairs = {}
        for a, b in pairwise(names):
            smooth = np.outer(widths[a], widths[b]) * source.random()
            pairs[a, b] = smooth * source.uniform(0.7, 1.3, smooth.shape)
        single = {name: np.array(widths[name]) * source.random() * 10 for name in names}
        rows.append(CostRow(resource, f"{resource} {len(rows)}", float(source.random()), single, pairs))
    problem = Problem(widths, {name: values / total for name, values in kept.items()}, tuple(rows), {})
    whole = problem.predicted(problem.full())
    limits = {name: tightness * source.uniform(0.8, 1.2) * cost for name, cost in whole.items()}
    return Problem(widths, problem.kept, problem.rows, limits)


def choices(problem):
    for positions in product(*(range(len(widths)) for widths in problem.widths.values())):
        yield dict(zip(problem.widths, positions, strict=True))


def positions(problem, allocation):
    return {name: problem.widths[name].index(width) for name, width in allocation.widths.items()}


def dropping_problem(seed: int, tightness: float = 0.6) -> Problem:
    """Two blocks on a stream, which may be thinned, or left out."""
    source, graph = np.random.default_rng(seed), residual()
    widths = {"trunk": (4, 6, 8), "inner": (0, 2, 4, 6), "wide": (0, 8, 16, 24)}
    importance = {
        group.name: source.random() * source.exponential(size=group.width) for group in graph.groups
    }
    table = table_of(graph, widths)
    whole = build_problem(graph, table, kept_shares(importance, widths), {}, widths)
    limits = {
        name: tightness * source.uniform(0.8, 1.2) * cost
        for name, cost in whole.predicted(whole.full()).items()
    }
    return build_problem(graph, table, kept_shares(importance, widths), limits, widths)


@settings(max_examples=40, deadline=None)
@given(
    make=st.sampled_from([random_problem, dropping_problem]),
    seed=st.integers(0, 10**6),
    tightness=st.sampled_from([0.3, 0.5, 0.7, 0.9]),
)
def test_the_milp_keeps_as_much_as_trying_everything(make, seed, tightness):
    problem = make(seed, tightness)
    fitting = [problem.importance(choice) for choice in choices(problem) if not problem.overruns(choice)]
    allocation = MilpAllocator().allocate(problem)
    assert allocation.feasible == bool(fitting)
    if fitting:
        assert allocation.optimal
        assert allocation.gap == 0
        assert allocation.kept_importance == pytest.approx(max(fitting), abs=1e-5)
    else:
        worst = [max(problem.overruns(choice).values()) for choice in choices(problem)]
        assert max(problem.overruns(positions(problem, allocation)).values()) == pytest.approx(
            min(worst), abs=1e-3
        )


def only(problem: Problem, *resources: str) -> Problem:
    """The problem with the limits on these resources alone."""
    return replace(problem, limits={name: problem.limits[name] for name in resources})


@settings(max_examples=40, deadline=None)
@given(
    make=st.sampled_from([random_problem, dropping_problem]),
    seed=st.integers(0, 10**6),
    resources=st.sampled_from([("latency", "model_peak"), ("latency", "file"), ("file", "model_peak")]),
    tightness=st.sampled_from([0.4, 0.6, 0.8]),
)
def test_of_two_budgets_at_once_both_are_met_and_no_plan_that_does_keeps_more(
    make, seed, resources, tightness
):
    problem = only(make(seed, tightness), *resources)
    fitting = [problem.importance(choice) for choice in choices(problem) if not problem.overruns(choice)]
    allocation = MilpAllocator().allocate(problem)
    assert allocation.feasible == bool(fitting)
    if fitting:
        assert all(allocation.predicted[name] <= limit * (1 + 1e-6) for name, limit in problem.limits.items())
        assert allocation.kept_importance == pytest.approx(max(fitting), abs=1e-5)


@settings(max_examples=40, deadline=None)
@given(
    make=st.sampled_from([random_problem, dropping_problem]),
    seed=st.integers(0, 10**6),
    tightness=st.sampled_from([0.02, 0.1, 0.3, 0.5]),
)
def test_where_nothing_fits_only_what_cannot_be_met_alone_is_overrun_and_by_the_least(make, seed, tightness):
    """Against all plans: the smallest t with cost <= t * limit for the limits in the way, the others held."""
    problem = make(seed, tightness)
    overruns = [problem.overruns(choice) for choice in choices(problem)]
    allocation = MilpAllocator().allocate(problem)
    assert allocation.feasible == any(not missed for missed in overruns)
    if allocation.feasible:
        return
    alone = {name for name in problem.limits if all(name in missed for missed in overruns)}
    holding = [missed for missed in overruns if missed.keys() <= alone]
    least = min(max(missed.values()) for missed in holding or overruns)
    found = problem.overruns(positions(problem, allocation))
    assert max(found.values()) == pytest.approx(least, rel=1e-4, abs=1e-4)
    assert allocation.binding == tuple(sorted(found))
    if holding:
        assert set(found) == alone


def test_budgets_that_can_be_met_are_not_overrun_beside_one_that_cannot():
    """The narrow width is the faster and the smaller; all are too slow. Size is no reason to keep the wide one."""
    widths, kept = {"a": (8, 16), "b": (4, 8)}, {"a": np.array([0.1, 0.5]), "b": np.array([0.2, 0.5])}
    rows = (
        CostRow("latency", "layers", 9.0, {"a": np.array([1.0, 1.0])}, {}),
        CostRow("file", "weights", 0.0, {"a": np.array([2.0, 4.0]), "b": np.array([1.0, 2.0])}, {}),
    )
    allocation = MilpAllocator().allocate(Problem(widths, kept, rows, {"latency": 5.0, "file": 3.0}))
    assert allocation.widths == {"a": 8, "b": 4}
    assert allocation.binding == ("latency",)
    assert allocation.optimal


@settings(max_examples=40, deadline=None)
@given(
    make=st.sampled_from([random_problem, dropping_problem]),
    seed=st.integers(0, 10**6),
    tightness=st.sampled_from([0.3, 0.5, 0.7, 0.9]),
)
def test_greedy_meets_the_limits_when_it_says_so_and_never_beats_the_milp(make, seed, tightness):
    problem = make(seed, tightness)
    greedy, exact = GreedyAllocator().allocate(problem), MilpAllocator().allocate(problem)
    if greedy.feasible:
        assert all(greedy.predicted[name] <= limit * (1 + 1e-6) for name, limit in problem.limits.items())
        assert exact.feasible
        assert greedy.kept_importance <= exact.kept_importance + 1e-6
        assert greedy.kept_importance + greedy.gap >= exact.kept_importance - 1e-6
    else:
        assert greedy.binding


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=lambda allocator: allocator.name)
def test_loose_limits_leave_the_model_whole(allocator):
    problem = random_problem(3, tightness=2.0)
    allocation = allocator.allocate(problem)
    assert allocation.widths == {name: choices[-1] for name, choices in problem.widths.items()}
    assert (allocation.kept_importance, allocation.optimal, allocation.gap) == (pytest.approx(1.0), True, 0.0)


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=lambda allocator: allocator.name)
def test_a_limit_that_equals_a_cost_is_met(allocator):
    """A budget of 100 % of the baseline must not cut anything because of rounding."""
    problem = random_problem(4)
    exact = Problem(problem.widths, problem.kept, problem.rows, problem.predicted(problem.full()))
    assert allocator.allocate(exact).kept_importance == pytest.approx(1.0)


@pytest.mark.parametrize("limit", [1e-9, 0.0, -5.0])
@pytest.mark.parametrize("allocator", ALLOCATORS, ids=lambda allocator: allocator.name)
def test_a_budget_out_of_reach_is_named_and_the_nearest_plan_given(allocator, limit):
    problem = random_problem(5)
    limits = {**problem.predicted(problem.full()), "file": limit}
    hopeless = Problem(problem.widths, problem.kept, problem.rows, limits)
    allocation = allocator.allocate(hopeless)
    assert not allocation.feasible
    assert allocation.binding == ("file",)
    least = min(hopeless.predicted(choice)["file"] for choice in choices(hopeless))
    assert allocation.predicted["file"] == pytest.approx(
        least, rel=0.2 if allocator.name == "greedy" else 1e-3
    )


def test_of_budgets_that_fight_each_other_the_one_nearest_to_be_met_is_named():
    """The narrow width is small but slow, the wide one fast but large."""
    widths, kept = {"a": (8, 16)}, {"a": np.array([0.5, 1.0])}
    rows = (
        CostRow("latency", "layers", 0.0, {"a": np.array([4.0, 2.0])}, {}),
        CostRow("file", "weights", 0.0, {"a": np.array([2.0, 4.0])}, {}),
    )
    allocation = MilpAllocator().allocate(Problem(widths, kept, rows, {"latency": 3.0, "file": 3.5}))
    assert not allocation.feasible
    assert allocation.widths == {"a": 16}  # 14 % over in size; the other is 33 % over in time
    assert allocation.binding == ("file",)


@pytest.mark.parametrize("allocator", ALLOCATORS, ids=lambda allocator: allocator.name)
def test_a_block_of_little_importance_is_dropped_before_anything_is_thinned(allocator):
    graph = residual()
    widths = candidate_widths(graph)
    importance = {"trunk": np.ones(8), "inner": np.ones(6), "wide": np.full(24, 1e-4)}
    table = table_of(graph)
    limits = {"latency": table.predict(graph, {"wide": 0})}
    problem = build_problem(graph, table, kept_shares(importance, widths), limits, widths)
    assert allocator.allocate(problem).widths == {"trunk": 8, "inner": 6, "wide": 0}


def test_a_staircase_is_used_to_its_edge():
    """Widths on one step take the same time: the widest of them is free."""
    widths = {"a": (4, 8, 12, 16, 20, 24)}
    rows = (CostRow("latency", "layers", 0.0, {"a": np.array([1.0, 1, 1, 1, 2, 2])}, {}),)
    problem = Problem(widths, {"a": np.arange(1, 7) / 6}, rows, {"latency": 1.5})
    for allocator in ALLOCATORS:
        assert allocator.allocate(problem).widths == {"a": 16}


def test_of_plans_that_keep_the_same_the_wider_is_chosen():
    widths = {"a": (2, 4), "b": (2, 4)}
    kept = {"a": np.array([0.5, 0.5]), "b": np.array([0.3, 0.5])}
    rows = (CostRow("latency", "layers", 0.0, {"a": np.array([1.0, 2]), "b": np.array([1.0, 5])}, {}),)
    for allocator in ALLOCATORS:
        assert allocator.allocate(Problem(widths, kept, rows, {"latency": 4.0})).widths == {"a": 4, "b": 2}


def test_a_model_with_nothing_to_choose_is_answered_not_solved():
    rows = (CostRow("latency", "layers", 7.0, {}, {}),)
    assert MilpAllocator().allocate(Problem({}, {}, rows, {"latency": 8.0})).feasible
    for allocator in ALLOCATORS:
        assert allocator.allocate(Problem({}, {}, rows, {"latency": 5.0})).binding == ("latency",)


def test_a_limit_that_is_not_a_number_is_refused():
    with pytest.raises(InputError, match="latency"):
        Problem({}, {}, (CostRow("latency", "layers", 1.0, {}, {}),), {"latency": float("nan")})


def test_out_of_time_still_gives_an_honest_answer():
    problem = resnet20_problem(0.5)
    allocation = MilpAllocator(time_limit_s=0.0).allocate(problem)
    assert allocation.feasible
    assert not allocation.optimal
    assert allocation.gap > 0


def resnet20_problem(share: float) -> Problem:
    graph = resnet20()
    widths = candidate_widths(graph)
    source = np.random.default_rng(0)
    importance = {group.name: source.exponential(size=group.width) for group in graph.groups}
    table = table_of(graph, widths)
    whole = build_problem(graph, table, kept_shares(importance, widths), {}, widths)
    limits = {name: share * cost for name, cost in whole.predicted(whole.full()).items()}
    limits["model_peak"] *= 1.2
    return build_problem(graph, table, kept_shares(importance, widths), limits, widths)


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_resnet20_is_solved_to_the_proven_best_every_time_the_same(share):
    problem = resnet20_problem(share)
    first, again, greedy = (
        allocator.allocate(problem) for allocator in (MilpAllocator(), MilpAllocator(), GreedyAllocator())
    )
    assert first == again
    assert first.feasible
    assert first.optimal
    assert greedy.feasible
    assert greedy.kept_importance <= first.kept_importance


def test_an_allocation_survives_json():
    allocation = MilpAllocator().allocate(random_problem(1))
    adapter = TypeAdapter(Allocation)
    assert adapter.validate_json(adapter.dump_json(allocation)) == allocation


@pytest.mark.parametrize("over", [0.0, 0.9e-6])
def test_a_plan_within_rounding_of_a_limit_is_fit_for_both_allocators(over):
    """Both must draw the line at the same place, or the exact one would lose against greedy."""
    rows = (CostRow("file", "weights", 0.0, {"a": np.array([50.0, 100.0 * (1 + over), 200.0])}, {}),)
    problem = Problem({"a": (4, 8, 16)}, {"a": np.array([0.3, 0.6, 1.0])}, rows, {"file": 100.0})
    for allocator in ALLOCATORS:
        assert allocator.allocate(problem).widths == {"a": 8}


def test_a_plan_that_only_the_solvers_rounding_lets_through_is_not_taken():
    rows = (CostRow("file", "weights", 0.0, {"a": np.array([50.0, 100.0 * (1 + 1.5e-6), 200.0])}, {}),)
    problem = Problem({"a": (4, 8, 16)}, {"a": np.array([0.3, 0.6, 1.0])}, rows, {"file": 100.0})
    for allocator in ALLOCATORS:
        allocation = allocator.allocate(problem)
        assert allocation.feasible
        assert allocation.widths == {"a": 4}
