"""The accuracy bench compares what it says it compares: models within a budget, last epochs, pairs of seeds."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accuracy_again import measure_again, shares_of_dense
from accuracy_fit import DENSE, ENOUGH, MOST, Fit, Fits, Trial, bisect
from accuracy_methods import rebuild, uniform_l1, work
from accuracy_report import interval, report
from accuracy_training import Terms, Trained, Trainings

from examples.cifar_resnet import resnet20
from pipeline.candidate import Built
from pipeline.graph import trace
from pipeline.profile import load_profile
from pipeline.prune import slim
from pipeline.search import searchable
from pipeline.watch import Silent

TERMS = Terms(2, 0.05, 1.0)
FIT = Fit(DENSE, "a board", "2026-11-21", 0.5, 1.0, False, 200, 100, ((None, 1.0),), "", "w", ())


def _trial(ratio: float, ms: float) -> Trial:
    return Trial(ratio, Built("w", (), "m", 1), ms)


@pytest.mark.parametrize("units", [8, 64, 1000])
def test_a_bisection_ends_with_the_slowest_model_that_fits(units: int) -> None:
    """A model keeps whole units; a unit costs the same time each."""
    asked: list[float] = []

    def attempt(ratio: float) -> Trial:
        asked.append(ratio)
        return _trial(ratio, 0.1 + 0.9 * round(units * (1 - ratio)) / units)

    found, _ = bisect(attempt, 0.505)
    best = max(0.1 + 0.9 * kept / units for kept in range(units + 1) if 0.1 + 0.9 * kept / units <= 0.505)
    assert found.ms == pytest.approx(best) or 0.505 * ENOUGH <= found.ms <= 0.505
    assert len(asked) <= MOST


def test_a_bisection_without_a_way_in_ends_with_the_fastest_model() -> None:
    found, why = bisect(lambda ratio: _trial(ratio, 2 - ratio), 0.5)
    assert found.ms == pytest.approx(1.0, abs=0.001)
    assert why == "no ratio leads into the budget"


def test_a_cut_model_is_built_again_from_its_weights_alone() -> None:
    torch.manual_seed(0)
    model, image = resnet20().eval(), torch.randn(1, 3, 32, 32)
    graph = searchable(trace(model, image))
    shop: Any = SimpleNamespace(slimmed=lambda built, plan: slim(model, plan))
    cut = uniform_l1(shop, Built("w", (), "m", 1), graph)(0.75)
    task: Any = SimpleNamespace(build_model=lambda fresh: resnet20())
    again = rebuild(task, (), cut.state_dict())
    assert torch.equal(again(image), cut.eval()(image))
    assert again.get_submodule("layer1.0.conv1").out_channels == 4
    assert again.get_submodule("layer3.2.conv2").in_channels == 16
    assert again.get_submodule("layer2.0.conv2").out_channels == 32  # the residual stream stays


def test_work_counts_multiplications_and_parameters() -> None:
    # 6n + 2 layers of He et al. 2016: 40.55 million multiplications, of which 640 in the linear layer
    assert work(resnet20().eval(), torch.zeros(1, 3, 32, 32)) == (40_551_040, 269_722)


def test_an_interval_is_students() -> None:
    assert interval([1.0, 2.0, 3.0]) == "2.00 ± 2.48"  # 4.303 · 1 / √3
    assert interval([1.5], signed=True) == "+1.50"
    assert interval([]) == "-"


def test_the_report_pairs_seeds(tmp_path: Path) -> None:
    fits, trainings = Fits(tmp_path, "resnet20", 50), Trainings(tmp_path, "resnet20-50")
    for method, ms in ((DENSE, 1.0), ("ours", 0.49), ("uniform_l1", 0.5), ("tp_taylor", 0.6)):
        fits.write(replace(FIT, method=method, measured_ms=ms, within=ms <= 0.5, macs=round(200 * ms)))
    for seed, (ours, other) in enumerate([(90.0, 89.0), (91.0, 90.5), (92.0, 90.0)]):
        trainings.keep(Trained("ours", seed, TERMS, 50.0, ours, (), False, 1))
        trainings.keep(Trained("uniform_l1", seed, TERMS, 40.0, other, (), False, 1))
    trainings.keep(Trained("uniform_l1", 3, TERMS, 40.0, 10.0, (), False, 1))  # has no partner
    trainings.keep(Trained("ours", 0, replace(TERMS, epochs=9), 50.0, 99.0, (), False, 1))  # another recipe
    text = report(tmp_path)
    first = text.split("\n\n### ")[0]
    assert "| ours | 0.49 | 98.0% | - | 49.0% | 100.0% | 1 | 50.00 | 91.00 ± 2.48 |  |" in first
    assert "+1.17 ± 1.90 |" in first  # of 1, 0.5 and 2
    assert "| tp_taylor | 0.6 | 120.0% (missed) | - | 60.0% | 100.0% | 1 | - | - | - |" in first
    assert text.count("### resnet20") == 2
    assert trainings.has("ours", 0, TERMS)
    assert not trainings.has("ours", 1, replace(TERMS, epochs=9))


def test_a_fit_is_kept_and_read_again(tmp_path: Path) -> None:
    fits = Fits(tmp_path, "resnet20", 50)
    assert fits.read("ours") is None
    fits.write(replace(FIT, method="ours", tried=((0.5, 0.7), (None, 0.4))))
    assert copy.copy(fits).read("ours") == replace(FIT, method="ours", tried=((0.5, 0.7), (None, 0.4)))


def test_models_are_measured_again_turn_by_turn(tmp_path: Path) -> None:
    fits = Fits(tmp_path, "resnet20", 50)
    for method in (DENSE, "ours"):
        fits.write(replace(FIT, method=method, weights=f"{method}.safetensors"))
    times, asked = iter([1.0, 0.5, 2.0, 1.0, 4.0, 2.4]), []

    def measure(path: Path, **how: Any) -> Any:
        asked.append(path.name)
        return SimpleNamespace(latency_ms=SimpleNamespace(p50=next(times)))

    device: Any = SimpleNamespace(measure=measure)
    for rounds in (2, 3, 3):
        measure_again(device, load_profile("local"), fits, rounds, Silent())
    assert asked == ["dense.onnx", "ours.onnx"] * 3  # the third call finds all it needs
    assert shares_of_dense(fits) == {DENSE: 1.0, "ours": 0.5}
    assert "| 50.0% |" in report(tmp_path)
