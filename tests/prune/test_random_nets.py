"""Property tests over networks that mix all the operators: whatever is removed, the slimmed model is exact."""

from __future__ import annotations

import copy

import pytest
import torch
from exactness import check, evaluated, reference, tensors_of
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from random_images import IMAGE_STAGES
from random_nets import TOLERANCE, other_inputs, random_net, random_plan
from random_tokens import TOKEN_STAGES
from torch import nn

from pipeline.graph import trace
from pipeline.prune import slim

pytestmark = pytest.mark.filterwarnings("ignore:.*slimmed as a graph")


def parameters(model: nn.Module) -> int:
    return sum(one.numel() for one in model.parameters())


@settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
@given(seed=st.integers(0, 10**6))
def test_a_slimmed_random_network_is_exact_and_the_given_one_untouched(seed: int) -> None:
    net, inputs = random_net(seed)
    before = copy.deepcopy(net.state_dict())
    graph = trace(net, inputs)
    plan = random_plan(graph, seed)
    slimmed = slim(net, plan)
    assert check(net, graph, plan, slimmed, other_inputs(inputs)) <= TOLERANCE
    assert all(torch.equal(one, before[name]) for name, one in net.state_dict().items())
    cut = any(before != after for before, after in plan.widths.values())
    assert not cut or parameters(slimmed) < parameters(net)


@pytest.mark.parametrize("seed", range(4))
def test_with_nothing_removed_the_reference_is_the_model(seed: int) -> None:
    net, inputs = random_net(seed)
    graph = trace(net, inputs)
    given_ = tuple(one.double() if one.is_floating_point() else one for one in inputs)
    whole = reference(graph.capture, graph.capture.alive({}), given_, tensors_of(net))
    for found, wanted in zip(whole, evaluated(net, given_), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_the_same_seed_gives_the_same_network_weights_and_inputs() -> None:
    (first, x), (second, y) = random_net(12), random_net(12)
    assert str(first) == str(second)
    assert torch.equal(x[0], y[0])
    for name, one in first.state_dict().items():
        assert torch.equal(one, second.state_dict()[name])


def test_every_stage_turns_up() -> None:
    """A stage that no network has would be tested by nothing."""
    seen = {type(module).__qualname__ for seed in range(300) for module in random_net(seed)[0].modules()}
    assert {
        "Windows",
        "NonLocal",
        "Rotary",
        "LSTM",
        "GRU",
        "Picked",
        "BlurPool",
        "Unfolded",
        "Cascade",
    } <= seen
    assert len(IMAGE_STAGES) + len(TOKEN_STAGES) >= 40


def test_a_network_with_one_weight_wrong_is_caught() -> None:
    caught = 0
    for seed in range(6):
        net, inputs = random_net(seed)
        graph = trace(net, inputs)
        plan = random_plan(graph, seed)
        slimmed = slim(net, plan)
        with torch.no_grad():
            next(one for one in slimmed.parameters() if one.ndim > 1).add_(0.1)
        caught += check(net, graph, plan, slimmed, inputs) > TOLERANCE
    assert caught == 6
