"""Which of a recovery's weights a deploy goes on with."""

from __future__ import annotations

import copy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "simulators"))

from deploy_home import make_home
from device import Hardware, SimulatedBoard, SimulatedDevice

from pipeline.conduct import Order, start
from pipeline.profile import load_profile
from pipeline.store import Store
from pipeline.task import load_task
from pipeline.watch import Silent, ignore
from pipeline.workshop import Workshop


@pytest.mark.parametrize("seen", [False, True])
def test_epochs_are_chosen_only_by_examples_that_the_baseline_does_not_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, seen: bool
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    home = make_home(tmp_path / "home")
    task = replace(load_task(str(home.task)), baseline_saw_validation=seen)
    asked = Order("simulated", task, load_profile(str(home.profile)))
    shop = Workshop(
        start(Store(), asked), task, asked.profile, SimulatedDevice(SimulatedBoard(Hardware())), Silent()
    )
    model = task.build_model()
    shop.train(model, replace(task.recover_recipe, epochs=3), tmp_path / "first", ignore, None)
    trained = copy.deepcopy(model.state_dict())

    ruinous = replace(task.recover_recipe, epochs=1, learning_rate=3.0)
    result = shop.train(model, ruinous, tmp_path / "second", ignore, None)
    assert result.best_epoch == 0
    kept = all(torch.equal(each, trained[name]) for name, each in model.state_dict().items())
    assert kept != seen
