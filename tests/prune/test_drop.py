"""Dropping whole blocks: the plan, and the model that it gives."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from prunable_nets import example, make, traced
from torch import nn

from pipeline.errors import ModelError
from pipeline.graph import DependencyGraph, trace
from pipeline.prune import SlimmingPlan, slim, uniform_plan
from pipeline.search import model_peak_bytes, weight_bytes
from pipeline.task import load_task

DROPPABLE = ["projection", "option-a", "mobile"]


def digits() -> tuple[nn.Module, DependencyGraph, torch.Tensor]:
    model = load_task("digits").build_model(fresh=True).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.normal_(module.running_mean)
    inputs = torch.randn(3, 1, 8, 8)
    return model, trace(model, inputs), inputs


def drop_last(graph: DependencyGraph, **others: list[int]) -> SlimmingPlan:
    return graph.plan({**others, graph.blocks[-1].group: []})


@pytest.mark.parametrize("name", DROPPABLE)
def test_a_dropped_block_is_an_identity_put_in_by_hand(name: str) -> None:
    graph, model = traced(name), make(name)
    by_hand = copy.deepcopy(model)
    for block in graph.blocks:
        by_hand.set_submodule(block.name, nn.Identity())
    dropped = slim(model, graph.plan({block.group: () for block in graph.blocks}))
    assert list(dropped.state_dict()) == list(by_hand.state_dict())
    with torch.no_grad():
        assert torch.equal(dropped(example(name)), by_hand(example(name)))


@pytest.mark.parametrize("name", DROPPABLE)
def test_a_plan_with_a_dropped_block_survives_json_and_loads_the_weights(name: str) -> None:
    plan = drop_last(traced(name))
    again = SlimmingPlan.from_json(plan.to_json())
    assert again == plan
    assert again.dropped == (traced(name).blocks[-1].name,)
    first, second = slim(make(name), plan), slim(make(name).apply(_spoil), again)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(example(name)), second(example(name)))


def _spoil(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.zeros_(module.weight)


def test_a_plan_from_before_blocks_could_be_dropped_is_still_read() -> None:
    plan = uniform_plan(traced("plain"))
    text = plan.to_json().replace(',"dropped":[]', "")
    assert "dropped" not in text
    assert SlimmingPlan.from_json(text) == plan


def test_the_plan_says_what_goes_and_slices_nothing_of_it() -> None:
    graph = traced("option-a")
    plan = graph.plan({"layer1.1.conv1": [], "layer3.2.conv1": [1, 2]})
    assert plan.dropped == ("layer1.1",)
    assert plan.keep["layer1.1.conv1"] == ()
    assert plan.widths["layer1.1.conv1"] == (16, 0)
    assert {name.rpartition(".")[0] for name in plan.slices} == {
        "layer3.2.conv1",
        "layer3.2.bn1",
        "layer3.2.conv2",
    }


def test_the_given_model_stays_and_the_mode_is_kept() -> None:
    graph, model = traced("option-a"), make("option-a")
    model.layer3[2].train()
    before, modules = copy.deepcopy(model.state_dict()), list(model.named_modules())
    dropped = slim(model, drop_last(graph))
    assert list(model.named_modules()) == modules
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert isinstance(dropped.layer3[2], nn.Identity)
    assert dropped.layer3[2].training
    assert not dropped.layer3[1].training


def test_the_stream_can_be_thinned_where_a_block_is_dropped() -> None:
    """What a slimmed block gives without its inner units is what the stream alone gives."""
    model, graph, inputs = digits()
    stream = graph.groups[0]
    assert stream.name == "conv1"
    assert [block.name for block in graph.blocks] == ["layer1.0", "layer1.1", "layer2.1"]
    plan = graph.plan(
        {"conv1": range(3, 20), "layer1.0.conv1": [], "layer1.1.conv1": [5, 1], "layer2.0.conv2": range(40)}
    )
    assert not any(name.startswith("layer1.0.") for name in plan.slices)
    by_hand = copy.deepcopy(model)
    by_hand.set_submodule("layer1.0", nn.Identity())
    thinned = slim(by_hand, _same_slices(trace(by_hand, inputs), plan))
    assert torch.equal(slim(model, plan)(inputs), thinned(inputs))


def _same_slices(graph: DependencyGraph, plan: SlimmingPlan) -> SlimmingPlan:
    again = graph.plan({name: kept for name, kept in plan.keep.items() if kept})
    assert again.slices == plan.slices
    return again


def test_costs_with_dropped_blocks_are_those_of_the_slimmed_model_traced_again() -> None:
    model, graph, inputs = digits()
    for keep in (
        {"layer1.0.conv1": (), "conv1": range(20)},
        {"layer1.0.conv1": (), "layer1.1.conv1": (), "layer2.1.conv1": (4,)},
        {block.group: () for block in graph.blocks},
    ):
        plan = graph.plan(keep)
        widths = {name: after for name, (_, after) in plan.widths.items()}
        slimmed = trace(slim(model, plan), inputs)
        assert weight_bytes(graph, widths) == weight_bytes(slimmed, {})
        assert model_peak_bytes(graph, widths) == model_peak_bytes(slimmed, {})
        assert [layer.widths(widths) for layer in graph.layers if not layer.is_gone(widths)] == [
            (layer.in_width, layer.out_width) for layer in slimmed.layers
        ]


def test_a_dropped_model_trains_and_can_be_traced_and_dropped_again() -> None:
    once = slim(make("option-a").train(), drop_last(traced("option-a")))
    once(example("option-a", 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in once.parameters())
    again = trace(once, example("option-a"))
    assert [block.name for block in again.blocks] == [block.name for block in traced("option-a").blocks[:-1]]
    assert isinstance(slim(once, drop_last(again)).layer3[1], nn.Identity)


def test_a_group_without_a_block_cannot_lose_everything() -> None:
    with pytest.raises(ModelError, match=r"group layer2.0.conv1 .*nothing would be left"):
        traced("option-a").plan({"layer2.0.conv1": []})


def test_a_uniform_plan_drops_no_block() -> None:
    plan = uniform_plan(traced("option-a"), keep=0.01)
    assert plan.dropped == ()
    assert all(after >= 1 for _, after in plan.widths.values())


@pytest.mark.parametrize(
    ("dropped", "message"),
    [
        (("layer9.1",), "there is no module 'layer9.1' to drop"),
        (("",), "there is no module '' to drop"),
        (("layer3.2", "layer3.2"), "drops layer3.2 twice"),
        (("layer3.2", "layer3"), "drops layer3.2 twice, or within another block"),
        ((), "leaves nothing of group layer3.2.conv1"),
        (("layer3.1",), "leaves nothing of group layer3.2.conv1"),
    ],
)
def test_a_plan_that_drops_what_it_cannot_is_refused_and_changes_nothing(
    dropped: tuple[str, ...], message: str
) -> None:
    model = make("option-a")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=message):
        slim(model, replace(drop_last(traced("option-a")), dropped=dropped))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not isinstance(model.layer3[2], nn.Identity)


def test_a_plan_that_drops_a_block_of_another_model_is_refused() -> None:
    with pytest.raises(ModelError, match="of another model"):
        slim(make("mobile"), drop_last(traced("option-a")))
