from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prunable_nets import NETS, make, random_keep, traced

from pipeline.errors import ModelError
from pipeline.prune import SlimmingPlan, slim


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), name=st.sampled_from(sorted(NETS)))
def test_json_gives_the_same_plan_back(seed: int, name: str) -> None:
    graph = traced(name)
    plan = graph.plan(random_keep(graph, seed))
    again = SlimmingPlan.from_json(plan.to_json())
    assert again == plan
    slimmed, same = slim(make(name), plan).state_dict(), slim(make(name), again).state_dict()
    assert all(torch.equal(slimmed[key], same[key]) for key in slimmed)


def test_unnamed_groups_keep_all_and_nothing_is_sliced_for_them() -> None:
    plan = traced("plain").plan({"conv1": [5, 0, 2]})
    assert plan.widths == {"conv1": (12, 3), "conv2": (10, 10), "fc1": (20, 20)}
    assert plan.keep["conv1"] == (0, 2, 5)
    assert plan.keep["fc1"] == tuple(range(20))
    assert set(plan.slices) == {
        "conv1.weight",
        "conv1.bias",
        "conv2.weight",
        *(f"bn1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
    }
    assert plan.slices["conv2.weight"] == {1: (0, 2, 5)}


def test_flattened_channel_takes_all_its_features() -> None:
    plan = traced("plain").plan({"conv2": [1, 9]})
    assert plan.slices["fc1.weight"] == {1: (*range(16, 32), *range(144, 160))}


def test_full_plan_changes_nothing() -> None:
    model = make("mobile")
    plan = traced("mobile").plan({})
    assert plan.slices == {}
    slimmed = slim(model, plan).state_dict()
    assert all(torch.equal(value, slimmed[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"conv7": [0]}, "no pruning group is named 'conv7'"),
        ({"conv1": []}, r"group conv1 \(width 12\): nothing would be left"),
        ({"conv1": [0, 12]}, r"group conv1 \(width 12\): index 12 is out of range 0 to 11"),
        ({"conv1": [3, 3]}, "index 3 is given twice"),
    ],
)
def test_keep_that_cannot_be_is_refused(keep: dict[str, list[int]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        traced("plain").plan(keep)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"keep": {"a": ["x"]}, "slices": {}, "widths": {}}'])
def test_text_that_is_no_plan_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="not a slimming plan"):
        SlimmingPlan.from_json(text)
