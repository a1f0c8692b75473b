"""Deploys on a simulated board that may choose between ways to run the model, or cut it in several steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "simulators"))

from deploy_home import Home, make_home
from device import Behaviour, Hardware, SimulatedBoard, SimulatedDevice

from pipeline.conduct import Order, conduct, start
from pipeline.convert import TfliteConverter
from pipeline.errors import ModelError
from pipeline.method import Method
from pipeline.profile import load_profile, parse_accuracy, parse_also, parse_budget, with_overrides
from pipeline.report.html import render
from pipeline.report.summary import RunSummary, to_json
from pipeline.store import Store
from pipeline.task import Task, load_task
from pipeline.watch import Silent

Speed = Callable[[str, int], float]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = make_home(tmp_path_factory.mktemp("variants") / "home", baseline_epochs=1)
    made.profile.write_text(made.profile.read_text().replace("[board]", "[board]\ncores = 4"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "HOME"):
            patch.setenv(name, str(made.folder / name.lower()))
        yield made


def order(home: Home, *also: str, budgets: tuple[str, ...] = ("latency=60%",), cuts: int = 1) -> Order:
    own = load_profile(str(home.profile))
    profile = with_overrides(
        own,
        [parse_budget(text) for text in budgets],
        None,
        None,
        parse_accuracy(None, 1.0),
        [parse_also(text, own) for text in also],
    )
    return Order("simulated", load_task(str(home.task)), profile, method=Method(cuts=cuts))


def board(speed: Speed, runtimes: tuple[str, ...] = ("onnxruntime", "tflite")) -> SimulatedDevice:
    """A board on which the bytes of a file are what takes time, so much faster in one way than in another."""

    def latency_ms(content: bytes, runtime: str, threads: int) -> float:
        return 0.05 + len(content) / 1e5 / speed(runtime, threads)

    hardware = Hardware(runtimes=tuple((name, "1.0") for name in runtimes))
    return SimulatedDevice(SimulatedBoard(hardware, Behaviour(latency_ms, noise=0.0)))


def walk(asked: Order, device: SimulatedDevice) -> tuple[RunSummary, list[str]]:
    run = start(Store(), asked)
    summary = conduct(run, asked, device, Silent())
    return summary, [step.name for step in Store().steps(run.id)]


def test_the_way_that_keeps_most_is_taken_and_its_model_is_active(home: Home) -> None:
    device = board(lambda _, threads: 1.3 if threads == 2 else 1.0)
    summary, steps = walk(order(home, "onnxruntime:2", "onnxruntime:3"), device)
    assert summary.status == "met", summary.message
    taken = [line for line in summary.variants if line.chosen]
    assert [line.name for line in taken] == ["onnxruntime, 2 threads"]
    fitted = [line for line in summary.variants if line.loss is not None]
    assert taken[0].loss == min(line.loss or 0.0 for line in fitted)
    assert len(fitted) == 3, "each way was fitted"
    assert taken[0].baseline_ms < summary.variants[0].baseline_ms
    limit = 0.6 * summary.variants[0].baseline_ms  # the profile's own way is what shares are of
    assert summary.reached is not None
    assert 0.9 * limit < summary.reached.latency_ms.p50 <= limit
    assert (summary.runtime and summary.runtime.threads, summary.reached.variant) == (2, taken[0].name)
    folder = Store().run_folder(summary.run)
    manifest = json.loads((folder / "bundle" / "manifest.json").read_text())
    assert (manifest["model"]["runtime"], manifest["model"]["threads"]) == ("onnxruntime", 2)
    assert sum(name.endswith("importance") for name in steps) == 1, "units are scored once for all"
    assert "Ways to run it" in render(json.loads(to_json(summary)))


def test_each_way_has_a_table_of_its_own_and_at_most_three_measurements(home: Home) -> None:
    _, steps = walk(order(home, "tflite:1"), board(lambda runtime, _: 0.9 if runtime == "tflite" else 1.0))
    assert {"latency table: scan", "tflite, 1 thread: latency table: scan"} <= set(steps)
    for way in ("fit", "tflite, 1 thread: fit"):
        measured = [name for name in steps if name.startswith(way) and name.endswith(": measure")]
        assert 1 <= len(measured) <= 3


def test_a_way_in_which_the_whole_model_fits_needs_no_pruning(home: Home) -> None:
    summary, steps = walk(order(home, "onnxruntime:4"), board(lambda _, threads: float(threads)))
    assert summary.status == "met", summary.message
    assert summary.reached is not None
    assert summary.baseline is not None
    assert summary.reached.parameters == summary.baseline.parameters
    assert [line.name for line in summary.variants if line.chosen] == ["onnxruntime, 4 threads"]
    assert not any("latency table" in name or "recovered" in name for name in steps)


def test_a_way_that_the_device_lacks_is_left_out(home: Home) -> None:
    device = board(lambda *_: 1.0, runtimes=("onnxruntime",))
    summary, _ = walk(order(home, "tflite:2", budgets=("latency=80%",)), device)
    assert summary.status == "met", summary.message
    assert summary.variants == ()


def test_a_way_that_the_model_cannot_be_converted_for_is_left_out(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise ModelError("TFLite has no translation of the operator aten.bitwise_and")

    monkeypatch.setattr(TfliteConverter, "convert", refuse)
    summary, _ = walk(order(home, "tflite:2", budgets=("latency=80%",)), board(lambda *_: 1.0))
    assert summary.status == "met", summary.message
    assert summary.variants == ()


def test_weights_in_half_precision_meet_a_budget_on_the_file_alone(home: Home) -> None:
    asked = order(home, "onnxruntime:1:fp16", budgets=("file=60%", "latency=100%"))
    summary, _ = walk(asked, board(lambda *_: 1.0))
    assert summary.status == "met", summary.message
    assert summary.reached is not None
    assert summary.baseline is not None
    assert summary.reached.parameters == summary.baseline.parameters
    assert summary.reached.variant.endswith("fp16 weights")
    assert (summary.reached.file_mb or 1.0) < 0.6 * (summary.baseline.file_mb or 0.0)
    assert summary.agreement is not None
    assert 50 < (summary.agreement.sqnr_db or 0.0) < 100, (
        "half precision rounds, and what is left was compared"
    )


def test_several_cuts_go_to_the_budget_by_what_was_measured(home: Home) -> None:
    summary, steps = walk(order(home, budgets=("latency=50%",), cuts=3), board(lambda *_: 1.0))
    assert summary.status == "met", summary.message
    assert summary.baseline is not None
    assert summary.reached is not None
    recovered = [each for each in summary.candidates if each.stage == "recovered"]
    assert [each.name for each in recovered] == ["cut 1: recovered", "cut 2: recovered", "cut 3: recovered 1"]
    times = [each.latency_ms.p50 for each in (summary.baseline, *recovered)]
    limit = 0.5 * times[0]
    for number, (before, after) in enumerate(pairwise(times)):
        target = before * (limit / before) ** (1 / (3 - number))
        assert 0.85 * target < after <= target, f"cut {number + 1}"
    for wider, narrower in pairwise(recovered):
        assert all(narrower.widths[name] <= width for name, width in wider.widths.items())
        assert (narrower.parameters or 0) < (wider.parameters or 0)
    assert sum(name.endswith("importance") for name in steps) == 3, "units are scored anew for each cut"
    assert summary.layers[0].out_before == 64, "the layers are those of the whole model"
    assert summary.groups, "why the last cut has its widths"


def test_an_interrupted_schedule_goes_on_where_it_stopped(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = order(home, "onnxruntime:2", budgets=("latency=50%",), cuts=2)
    whole, steps = walk(asked, board(lambda *_: 1.0))
    device, done = board(lambda *_: 1.0), [0]
    measure = SimulatedDevice.measure

    def stopped(self: SimulatedDevice, *args: object, **kwargs: object) -> object:
        done[0] += 1
        if done[0] in {2, 4, 6}:
            raise KeyboardInterrupt
        return measure(self, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(SimulatedDevice, "measure", stopped)
    run, ends = start(Store(), asked), 0
    while True:
        try:
            again = conduct(run, asked, device, Silent())
            break
        except KeyboardInterrupt:
            ends += 1
            run.close()
            run = Store().open(run.id)
    assert ends == 3
    assert [step.name for step in Store().steps(run.id)] == steps
    assert again.reached is not None
    assert whole.reached is not None
    assert again.reached.widths == whole.reached.widths


def test_accuracy_that_the_last_cut_lost_names_the_cut_that_held_it(home: Home) -> None:
    asked = order(home, budgets=("latency=6%",), cuts=2)
    task = replace(asked.task, recover_recipe=replace(asked.task.recover_recipe, epochs=2))
    free, _ = walk(with_floor(asked, task, 1.0), board(lambda *_: 1.0))
    first, last = after_cuts(free)
    assert free.status == "met"
    assert first > last
    stricter = with_floor(asked, task, (first + last) / 2)
    summary = conduct(Store().open(free.run), stricter, board(lambda *_: 1.0), Silent())
    assert after_cuts(summary) == (first, last)
    assert summary.status == "infeasible"
    assert "'cut 1: recovered' held it at" in summary.message


def with_floor(asked: Order, task: Task, percent: float) -> Order:
    floor = parse_accuracy(None, percent)
    assert floor is not None
    return replace(asked, task=task, profile=replace(asked.profile, accuracy=floor))


def after_cuts(summary: RunSummary) -> tuple[float, float]:
    """Return the validation accuracies (percent) after recovery from the first and the second cut."""
    names = ("cut 1: recovered", "cut 2: recovered 1")
    found = {each.name: each.validation_accuracy or 0.0 for each in summary.candidates}
    return found[names[0]], found[names[1]]
