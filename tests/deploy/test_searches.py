"""Searches on a simulated board, from the survey to the model that fits: all budgets, all strategies, interruptions."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

sys.path.append(str(Path(__file__).parents[1] / "simulators"))

from deploy_home import Home, make_home
from device import Behaviour, Hardware, PowerSensor, SimulatedBoard, SimulatedDevice

from pipeline.candidate import Built, Candidate
from pipeline.conduct import Order, conduct, start
from pipeline.deploy import measure_baseline
from pipeline.errors import DeviceError
from pipeline.feedback import Feedback
from pipeline.fit import Fitted, fit
from pipeline.measurement import Measurement
from pipeline.profile import load_profile, parse_accuracy, parse_budget, with_overrides
from pipeline.search import MilpAllocator, Refined
from pipeline.search.strategies import STRATEGIES
from pipeline.store import Run, Store
from pipeline.survey import Survey, loss_at, study, survey
from pipeline.task import load_task
from pipeline.watch import Silent
from pipeline.workshop import Workshop

SENSOR = PowerSensor(busy_mw=3500.0)


def by_bytes(content: bytes, runtime: str, threads: int) -> float:
    """Milliseconds of a board on which weights are all that counts, in stairs of 1 kB.

    With coarser ones the terms of pairs, timed with all other groups whole, are a step off at uniform widths.
    """
    del runtime, threads
    return 0.1 + -(-len(content) // 1024) * 1024 / 1e5


def board(sensor: PowerSensor | None = SENSOR) -> SimulatedBoard:
    return SimulatedBoard(Hardware(sensor=sensor), Behaviour(by_bytes, noise=0.0))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = make_home(tmp_path_factory.mktemp("searches") / "home", baseline_epochs=1)
    made.profile.write_text(
        made.profile.read_text().replace('power_sensor = "none"', 'power_sensor = "ina226"')
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HOME"):
            patch.setenv(name, str(made.folder / name.lower()))
        yield made


def order(home: Home, *budgets: str) -> Order:
    profile = replace(load_profile(str(home.profile)), budgets=())
    loose = parse_accuracy(None, 1.0)
    profile = with_overrides(profile, [parse_budget(text) for text in budgets], None, None, loose)
    return Order("simulated", load_task(str(home.task)), profile)


@dataclass
class Ready:
    """What stands before a search: the run, the baseline as measured, the survey. Many searches share one run."""

    order: Order
    run: Run
    device: SimulatedDevice
    shop: Workshop
    baseline: Candidate
    ground: Survey
    searches: int = 0

    def search(self, strategy: str, *budgets: str, rounds: int = 8, number: int | None = None) -> Fitted:
        """Search with these budgets, as the next of many searches or as the one of that number again."""
        self.searches += 1
        limits = [parse_budget(text).resolve(self.baseline.measurement) for text in budgets]
        feedback = Feedback().learn(self.ground, self.baseline)
        first = 100 * (number or self.searches) + 1
        return fit(
            self.shop, self.baseline, self.ground, limits, feedback, MilpAllocator(), first=first, rounds=rounds,
            strategy=strategy,
        )  # fmt: skip


def made_ready(order: Order, run: Run, device: SimulatedDevice) -> Ready:
    shop = Workshop(run, order.task, order.profile, device, Silent())
    shop.settle_host()
    baseline = measure_baseline(shop)
    return Ready(
        order, run, device, shop, baseline, survey(shop, study(shop, baseline.built), baseline.built)
    )


@pytest.fixture(scope="module")
def ready(home: Home) -> Ready:
    asked = order(home, "energy=60%")
    return made_ready(asked, start(Store(), asked), SimulatedDevice(board()))


@pytest.mark.parametrize("budgets", [("energy=60%",), ("energy=90%", "file=50%")])
def test_energy_budgets_hold_as_measured(home: Home, budgets: tuple[str, ...]) -> None:
    asked = order(home, *budgets)
    summary = conduct(start(Store(), asked), asked, SimulatedDevice(board()), Silent())
    assert summary.status == "met", summary.message
    assert all(budget.met for budget in summary.budgets)
    assert "energy" in {budget.resource for budget in summary.budgets}


def test_energy_is_used_up_to_its_budget(ready: Ready) -> None:
    fitted = ready.search("feedback", "energy=60%", "latency=90%", rounds=3)
    assert fitted.best is not None
    limit = 0.6 * (ready.baseline.measurement.energy_mj or 0.0)
    assert 0.9 * limit <= (fitted.best.measurement.energy_mj or 0.0) <= limit
    assert fitted.feedback.power_w == pytest.approx(3.5, rel=0.01)


def test_a_budget_that_the_board_cannot_measure_is_refused_before_anything_is_built(home: Home) -> None:
    asked = order(home, "energy=5mJ")
    with pytest.raises(DeviceError, match=r"energy can't be held.*power sensor"):
        conduct(start(Store(), asked), asked, SimulatedDevice(board(sensor=None)), Silent())


@pytest.mark.parametrize("strategy", list(STRATEGIES))
def test_every_strategy_runs_on_a_board(ready: Ready, strategy: str) -> None:
    fitted = ready.search(strategy, "latency=70%", "energy=75%")
    assert fitted.best is not None, fitted.why
    assert fitted.why
    assert len({tuple(each.widths.items()) for each in fitted.candidates}) == len(fitted.candidates) <= 8


def test_the_prediction_is_there_for_every_round(ready: Ready) -> None:
    fitted = ready.search("uniform", "latency=60%", rounds=3)
    assert fitted.candidates
    for candidate in fitted.candidates:
        assert candidate.table_ms is not None
        assert candidate.calibrated_ms == pytest.approx(candidate.measurement.latency_ms.p50, rel=0.05)


@pytest.mark.parametrize(
    ("strategy", "after"), [("feedback", 0), ("feedback", 1), ("netadapt", 1), ("evolutionary", 2)]
)
def test_a_search_that_was_interrupted_goes_on_as_if_it_had_not_been(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, strategy: str, after: int
) -> None:
    whole = ready.search(strategy, "latency=55%", rounds=4)
    measured = [0]

    def measure(step: str, built: Built) -> Measurement:
        measured[0] += 1
        if measured[0] > after:
            raise KeyboardInterrupt
        return Workshop.measure(ready.shop, step, built)

    with monkeypatch.context() as patch:
        patch.setattr(ready.shop, "measure", measure)
        with pytest.raises(KeyboardInterrupt) if len(whole.candidates) > after else nullcontext():
            ready.search(strategy, "latency=55%", rounds=4)
    number = ready.searches
    ready.run.close()
    ready.run = ready.shop.run = Store().open(ready.run.id)
    again = ready.search(strategy, "latency=55%", rounds=4, number=number)
    assert [each.widths for each in again.candidates] == [each.widths for each in whole.candidates]
    assert again.why == whole.why
    steps = [step.name for step in Store().steps(ready.run.id) if step.name.startswith(f"fit {number}0")]
    assert len([name for name in steps if name.endswith(": measure")]) == len(whole.candidates)


def test_an_ended_search_is_not_searched_on_when_the_run_is_resumed(ready: Ready) -> None:
    fitted = ready.search("uniform", "latency=55%", rounds=1)
    again = ready.search("uniform", "latency=55%", rounds=3, number=ready.searches)
    assert len(fitted.candidates) == 1
    assert [each.widths for each in again.candidates] == [each.widths for each in fitted.candidates]


def test_losses_are_taken_anew_around_the_plan_before_anything_is_measured(ready: Ready) -> None:
    fitted = ready.search("feedback", "latency=55%", rounds=2)
    first = 100 * ready.searches + 1
    steps = [
        each for each in ready.run.store.steps(ready.run.id) if each.name.startswith(f"fit {first}: refine")
    ]
    begin = TypeAdapter(tuple[Refined, ...]).validate_json(steps[0].value)[0]
    rounds = [begin, *(TypeAdapter(Refined).validate_json(each.value) for each in steps[1:])]
    losses = [each.loss for each in rounds]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] == loss_at(ready.shop, ready.ground, ready.baseline.built, rounds[-1].widths)
    assert fitted.candidates[0].widths == rounds[-1].widths
    assert fitted.ground.near == rounds[-1].near
    assert ready.ground.near == {}
    names = [each.name for each in ready.run.store.steps(ready.run.id)]
    assert names.index(steps[-1].name) < names.index(f"fit {first}: measure")


def test_nothing_is_refined_where_nothing_fits(ready: Ready) -> None:
    fitted = ready.search("feedback", "latency=1%", rounds=1)
    assert fitted.best is None
    assert fitted.ground is ready.ground


def test_losses_that_were_taken_around_a_plan_are_not_taken_again(ready: Ready) -> None:
    near = {name: (0, len(choices) - 1) for name, choices in ready.ground.widths.items()}
    stood, ready.ground = ready.ground, replace(ready.ground, near=near)
    try:
        fitted = ready.search("feedback", "latency=55%", rounds=2)
    finally:
        ready.ground = stood
    assert fitted.best is not None
    assert fitted.ground.near == near
    names = [each.name for each in ready.run.store.steps(ready.run.id)]
    assert not any(name.startswith(f"fit {100 * ready.searches + 1}: refine") for name in names)
