"""All searches on devices that are formulas: they end within the budgets or say why not, and can be resumed."""

from __future__ import annotations

import dataclasses
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from synthetic_device import WIDTHS, SyntheticDevice, run, slower_when_narrower, smooth, stairs

from pipeline.search import Allocation
from pipeline.search.strategies import (
    DEFAULT,
    STRATEGIES,
    Evolutionary,
    ExactFeedback,
    NetAdapt,
    Proposal,
    Start,
)
from pipeline.search.strategies.base import frozen

ALL = pytest.mark.parametrize("name", list(STRATEGIES))
FEW = settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
BUDGETS = [
    {"latency": 0.6},
    {"latency": 0.7, "file": 0.5},
    {"latency": 0.8, "model_peak": 0.9, "file": 0.8},
    {"energy": 0.6},
    {"file": 0.4},
]


@ALL
@pytest.mark.parametrize("budgets", BUDGETS, ids="+".join)
@pytest.mark.parametrize("layers", [smooth, stairs])
def test_every_search_ends_within_all_budgets(name: str, budgets: dict[str, float], layers) -> None:
    device = SyntheticDevice(layers, table_error=0.03, power_w=3.0)
    start = device.start(measurements=24, **budgets)
    strategy = STRATEGIES[name](start)
    told = run(strategy, device)
    assert any(seen.fits(start.outlook.limits) for _, seen in told), strategy.why
    assert strategy.why
    assert len(told) <= 24


@ALL
def test_what_cannot_be_met_ends_with_a_reason(name: str) -> None:
    device = SyntheticDevice(constant=0.5)
    start = device.start(measurements=6, latency=0.2)
    strategy = STRATEGIES[name](start)
    told = run(strategy, device)
    assert not any(seen.fits(start.outlook.limits) for _, seen in told)
    assert strategy.why
    assert len(told) <= 6


@ALL
@FEW
@given(seed=st.integers(0, 999), share=st.floats(0.35, 0.9), layers=st.sampled_from([smooth, stairs]))
def test_asked_widths_are_candidates_and_never_asked_twice(
    name: str, seed: int, share: float, layers
) -> None:
    device = SyntheticDevice(layers, table_error=0.05, noise=0.002, seed=seed)
    told = run(STRATEGIES[name](device.start(measurements=8, latency=share)), device)
    asked = [frozen(proposal.widths) for proposal, _ in told]
    assert len(asked) == len(set(asked))
    for proposal, _ in told:
        assert proposal.strategy == name
        assert set(proposal.widths) == set(WIDTHS)
        assert all(width in WIDTHS[group] for group, width in proposal.widths.items())


@ALL
@FEW
@given(seed=st.integers(0, 999), share=st.floats(0.35, 0.9))
def test_told_again_a_search_goes_on_with_the_same_question(name: str, seed: int, share: float) -> None:
    device = SyntheticDevice(stairs, table_error=0.05, noise=0.002, seed=seed)
    start = device.start(measurements=5, latency=share)
    told = run(STRATEGIES[name](start), device)
    for done in range(len(told) + 1):
        resumed = STRATEGIES[name](start)
        for proposal, seen in told[:done]:
            resumed.tell(proposal, seen)
        expected = told[done][0] if done < len(told) else None
        assert resumed.ask() == expected
        assert resumed.ask() == expected


def test_ours_lands_between_97_and_100_percent_or_proves_that_no_plan_there_is_better() -> None:
    """On devices whose table is up to 5 % wrong, entry by entry, with three measurements at most."""
    landings = []
    for seed in range(20):
        pick = random.Random(seed)
        device = SyntheticDevice(
            (smooth, stairs)[seed % 2],
            pick.uniform(0, 0.2),
            pick.uniform(0.85, 1.15),
            0.05,
            pick.uniform(0, 0.002),
            seed,
        )
        landed, why = _landing(device, pick.uniform(0.35, 0.9))
        landings.append(landed if landed >= 0.97 or "none keeps more" not in why else 0.97)
    assert min(landings) >= 0.93
    assert sum(landed >= 0.97 for landed in landings) >= 18


def test_the_last_try_leaves_room_for_a_surprise_like_the_last() -> None:
    """Where each plan turns out slower than all that was learnt before foretells."""
    landings = [
        _landing(SyntheticDevice(layers, surprise=0.04, seed=seed), 0.5)[0]
        for layers in (smooth, stairs)
        for seed in range(4)
    ]
    assert all(0.9 <= landed <= 1 for landed in landings)


def test_ours_most_often_needs_two_measurements() -> None:
    needed = []
    for seed in range(12):
        device = SyntheticDevice(
            (smooth, stairs)[seed % 2], 0.02 * seed % 0.2, 0.9 + 0.02 * seed, 0.05, 0.002, seed
        )
        strategy = ExactFeedback(device.start(measurements=3, latency=0.6))
        needed.append(len(run(strategy, device)))
    assert sorted(needed)[len(needed) // 2] <= 2


def _landing(device: SyntheticDevice, share: float) -> tuple[float, str]:
    """Return the largest share of the budget that ours reached within it, in three measurements, and why it ended."""
    start = device.start(measurements=3, latency=max(share, 0.35 + device.constant))
    strategy = ExactFeedback(start)
    shares = [seen.fullest(start.outlook.limits) for _, seen in run(strategy, device)]
    assert len(shares) <= 3
    return max((share for share in shares if share <= 1), default=0.0), strategy.why


def test_ours_says_with_the_solvers_proof_that_no_plan_fits() -> None:
    device = SyntheticDevice(constant=0.5)
    strategy = ExactFeedback(device.start(measurements=5, latency=0.2))
    (told,) = run(strategy, device)
    assert told[0].feasible is False
    assert told[0].binding == ("latency",)
    assert "no other plan is predicted to fit: proven by milp" in strategy.why


def test_ours_tries_the_next_nearest_where_the_nearest_missed_by_what_predictions_are_off() -> None:
    """On this device a plan fits although the corrected table, a quarter wrong, foretells none."""
    device = SyntheticDevice(stairs, constant=0.05, table_error=0.25, seed=4)
    start = device.start(measurements=3, latency=0.15)
    told = run(ExactFeedback(start), device)
    assert [(proposal.feasible, seen.fits(start.outlook.limits)) for proposal, seen in told[-2:]] == [
        (False, False),
        (False, True),
    ]


def test_ours_does_not_try_the_next_nearest_where_bytes_are_in_the_way() -> None:
    device = SyntheticDevice(stairs, constant=0.05, table_error=0.25, seed=4)
    least = device.measure({name: choices[0] for name, choices in WIDTHS.items()}).measurement.file_bytes
    whole = device.measure({}).measurement.file_bytes
    start = device.start(measurements=3, file=0.97 * least / whole)
    assert len(run(ExactFeedback(start), device)) == 1


def test_ours_overruns_only_the_budget_that_is_in_the_way() -> None:
    device = SyntheticDevice(constant=0.5)
    start = device.start(measurements=5, latency=0.2, file=0.5, model_peak=0.9)
    strategy = ExactFeedback(start)
    ((proposal, seen),) = run(strategy, device)
    assert proposal.binding == ("latency",)
    assert [name for name, share in seen.used(start.outlook.limits).items() if share > 1] == ["latency"]


def test_ours_names_energy_where_energy_is_in_the_way() -> None:
    device = SyntheticDevice(constant=0.5, power_w=2.0)
    strategy = ExactFeedback(device.start(measurements=5, latency=0.9, energy=0.2))
    told = run(strategy, device)
    assert told[0][0].binding == ("energy",)
    assert told[0][0].predicted["energy"] == pytest.approx(2.0 * told[0][0].predicted["latency"])


def test_ours_never_asks_for_a_plan_that_is_slower_than_the_whole_model() -> None:
    device = SyntheticDevice(slower_when_narrower)
    strategy = ExactFeedback(device.start(measurements=5, file=0.5))
    assert run(strategy, device) == []
    assert "faster than the whole model" in strategy.why


def test_ours_passes_over_a_plan_that_missed_against_all_predictions() -> None:
    device = SyntheticDevice(stairs)
    start = device.start(measurements=4, latency=0.5)
    strategy = ExactFeedback(start)
    first = strategy.ask()
    assert first is not None
    seen = device.measure(first.widths)
    missed = dataclasses.replace(seen.measurement.latency_ms, p50=1.02 * start.outlook.limits[0].value)
    strategy.tell(
        first, dataclasses.replace(seen, measurement=dataclasses.replace(seen.measurement, latency_ms=missed))
    )
    strategy.outlook = start.outlook  # as if nothing had been learnt from the miss
    second = strategy.ask()
    assert second is not None
    assert second.widths != first.widths
    assert set(second.predicted) == {"latency", "file", "model_peak"}


def test_netadapt_takes_the_step_with_the_smallest_loss() -> None:
    device = SyntheticDevice()
    start = device.start(measurements=4, latency=0.8)

    def loss(widths) -> float:
        return 0.0 if widths["inner2.1"] < WIDTHS["inner2.1"][-1] else 1.0

    proposal = NetAdapt(Start(start.outlook, 4, loss=loss)).ask()
    assert proposal is not None
    assert [name for name, width in proposal.widths.items() if width < WIDTHS[name][-1]] == ["inner2.1"]


def test_netadapt_reaches_its_budget_with_a_group_a_step() -> None:
    device = SyntheticDevice()
    start = device.start(measurements=6, latency=0.6)
    told = run(NetAdapt(start), device)
    before = {name: choices[-1] for name, choices in WIDTHS.items()}
    for proposal, _ in told:
        assert sum(proposal.widths[name] != before[name] for name in before) == 1
        before = proposal.widths
    assert told[-1][1].fits(start.outlook.limits)


def test_an_evolution_ranks_by_loss_where_it_is_told() -> None:
    device = SyntheticDevice()
    start = device.start(measurements=4, latency=0.6)
    strategy = Evolutionary(start)
    for number in range(2):
        proposal = strategy.ask()
        assert proposal is not None
        strategy.tell(proposal, dataclasses.replace(device.measure(proposal.widths), loss=float(number)))
    assert strategy._fitness(0) > strategy._fitness(1)


def test_the_default_is_ours() -> None:
    assert STRATEGIES[DEFAULT] is ExactFeedback


def test_a_step_that_an_older_version_recorded_is_still_understood() -> None:
    recorded = Allocation({"g": 4}, {"latency": 1.5}, 0.9, True, 0.0, "milp", True)
    text = TypeAdapter(Allocation).dump_json(recorded)
    read = TypeAdapter(Proposal).validate_json(text)
    assert (read.widths, read.kept_importance, read.why) == ({"g": 4}, 0.9, "")
    assert TypeAdapter(Proposal).validate_json(TypeAdapter(Proposal).dump_json(read)) == read
