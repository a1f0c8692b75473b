from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from prunable_nets import NETS, example, make, mask, random_keep, traced
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ModelError
from pipeline.graph import trace
from pipeline.prune import SlimmingPlan, model_digest, slim, uniform_plan

SIZES = {
    nn.Conv2d: lambda m: m.weight.shape == (m.out_channels, m.in_channels // m.groups, *m.kernel_size),
    nn.Linear: lambda m: m.weight.shape == (m.out_features, m.in_features),
    nn.BatchNorm2d: lambda m: m.weight.shape == m.running_mean.shape == (m.num_features,),
}


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return copy.deepcopy(model.state_dict())


def identical(model: nn.Module, before: dict[str, Tensor]) -> bool:
    after = model.state_dict()
    return list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


@pytest.mark.parametrize("name", NETS)
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_slimmed_output_is_the_masked_output(name: str, seed: int) -> None:
    graph, x = traced(name), example(name, 3)
    plan = graph.plan(random_keep(graph, seed))
    model, masked = make(name), make(name)
    mask(masked, graph, plan)
    slimmed = slim(model, plan)
    with torch.no_grad():
        torch.testing.assert_close(slimmed(x), masked(x), rtol=1e-5, atol=1e-5)
    shapes = {key: value.shape for key, value in slimmed.state_dict().items()}
    for parameter, dims in plan.slices.items():
        assert all(shapes[parameter][dim] == len(kept) for dim, kept in dims.items())


@pytest.mark.parametrize("name", NETS)
def test_half_of_every_group_is_smaller_and_its_attributes_tell_the_truth(name: str) -> None:
    model, graph = make(name), traced(name)
    slimmed = slim(model, uniform_plan(graph, keep=0.5))
    assert sum(p.numel() for p in slimmed.parameters()) < 0.8 * sum(p.numel() for p in model.parameters())
    for module in slimmed.modules():
        for kind, true in SIZES.items():
            if isinstance(module, kind):
                assert true(module), module


@pytest.mark.parametrize("name", NETS)
def test_slimmed_model_trains(name: str) -> None:
    slimmed = slim(make(name).train(), uniform_plan(traced(name), keep=0.4))
    assert slimmed.training
    before = snapshot(slimmed)
    optimiser = torch.optim.SGD(slimmed.parameters(), lr=0.1)
    functional.cross_entropy(slimmed(example(name, 4)), torch.tensor([0, 1, 2, 3])).backward()
    optimiser.step()
    moved = sum(not torch.equal(before[key], value) for key, value in slimmed.named_parameters())
    assert moved > len(list(slimmed.parameters())) // 2
    assert slimmed(example(name, 4)).isfinite().all()


@pytest.mark.parametrize("name", NETS)
def test_given_model_is_bit_identical_after_tracing_and_slimming(name: str) -> None:
    model = make(name).train()
    before = snapshot(model)
    parameters = {key: id(value) for key, value in model.named_parameters()}
    slim(model, uniform_plan(trace(model, example(name)), keep=0.5))
    assert identical(model, before)
    assert parameters == {key: id(value) for key, value in model.named_parameters()}
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_slimmed_model_can_be_traced_and_slimmed_again() -> None:
    once = slim(make("mobile"), uniform_plan(traced("mobile"), keep=0.75))
    again = trace(once, example("mobile"))
    assert [group.name for group in again.groups] == [group.name for group in traced("mobile").groups]
    plan = again.plan(random_keep(again, 5))
    masked = copy.deepcopy(once)
    mask(masked, again, plan)
    torch.testing.assert_close(
        slim(once, plan)(example("mobile")), masked(example("mobile")), rtol=1e-4, atol=1e-4
    )


def test_modes_dtype_gradients_and_hooks_are_kept() -> None:
    model = make("plain").double()
    model.fc1.weight.requires_grad_(False)
    model.bn1.train()
    calls: list[int] = []
    model.conv2.register_forward_hook(lambda *_: calls.append(1))
    slimmed = slim(model, uniform_plan(traced("plain")))
    assert slimmed.fc1.weight.dtype == torch.float64
    assert not slimmed.fc1.weight.requires_grad
    assert slimmed.conv1.weight.requires_grad
    assert slimmed.bn1.training
    assert not slimmed.conv1.training
    slimmed(example("plain").double())
    assert calls == [1]


class TiedNet(nn.Module):
    """Two layers with one weight, and one layer called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.b.weight = self.a.weight
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(self.b(torch.relu(self.a(torch.relu(self.a(x)))))))


def test_tied_weights_stay_tied_and_are_one_group() -> None:
    model = TiedNet()
    graph = trace(model, torch.randn(2, 6))
    assert [group.name for group in graph.groups] == ["first"]
    assert [layer.name for layer in graph.layers] == ["first", "a", "a#2", "a#3", "last"]
    plan = graph.plan({"first": [0, 3, 6]})
    slimmed, masked = slim(model, plan), copy.deepcopy(model)
    mask(masked, graph, plan)
    assert slimmed.a.weight is slimmed.b.weight
    assert slimmed.a.weight.shape == (3, 3)
    assert (slimmed.b.in_features, slimmed.b.out_features) == (3, 3)
    x = torch.randn(4, 6)
    torch.testing.assert_close(slimmed(x), masked(x))


def _without(plan: SlimmingPlan, **changes: object) -> SlimmingPlan:
    return replace(plan, **changes)  # type: ignore[arg-type]


BAD_PLANS: dict[str, tuple[Callable[[SlimmingPlan], SlimmingPlan], str]] = {
    "out of range": (
        lambda p: _without(p, slices={"conv1.weight": {0: (0, 99)}}),
        "conv1.weight.*99.*out of range",
    ),
    "negative": (
        lambda p: _without(p, slices={"conv1.weight": {0: (-1, 2)}}),
        "conv1.weight.*-1.*out of range",
    ),
    "double": (lambda p: _without(p, slices={"conv1.weight": {0: (4, 4)}}), "conv1.weight.*4 is given twice"),
    "emptied": (
        lambda p: _without(p, slices={"conv1.weight": {0: ()}}),
        "conv1.weight.*at least one must stay",
    ),
    "unknown parameter": (
        lambda p: _without(p, slices={"conv9.weight": {0: (1,)}}),
        "no parameter conv9.weight",
    ),
    "unknown dimension": (
        lambda p: _without(p, slices={"conv1.bias": {1: (1,)}}),
        "conv1.bias has no dimension 1",
    ),
    "emptied group": (lambda p: _without(p, widths={"conv1": (12, 0)}), "nothing of group conv1"),
    "other digest": (lambda p: _without(p, model_digest="0" * 64), "of another model: PlainNet"),
}


@pytest.mark.parametrize("case", BAD_PLANS)
def test_bad_plan_is_one_error_that_names_the_place_and_changes_nothing(case: str) -> None:
    spoil, message = BAD_PLANS[case]
    model = make("plain")
    before = snapshot(model)
    with pytest.raises(ModelError, match=message):
        slim(model, spoil(uniform_plan(traced("plain"))))
    assert identical(model, before)


def test_plan_of_another_model_is_refused() -> None:
    with pytest.raises(ModelError, match="of another model"):
        slim(make("concat"), uniform_plan(traced("plain")))


def test_plan_is_refused_by_a_model_that_is_already_slimmed() -> None:
    plan = uniform_plan(traced("plain"))
    with pytest.raises(ModelError, match=r"does not fit|another model"):
        slim(slim(make("plain"), plan), plan)


def test_digest_tells_structures_apart_and_ignores_weights() -> None:
    model, other = make("plain"), make("plain").half()
    nn.init.zeros_(other.fc1.weight)
    assert model_digest(model) == model_digest(other)
    other.fc2 = nn.Linear(20, 6)
    assert model_digest(model) != model_digest(other)


def test_model_that_cannot_be_copied_is_a_model_error() -> None:
    model = make("plain")
    model.cached = model.fc1.weight * 2
    with pytest.raises(ModelError, match="PlainNet cannot be copied"):
        slim(model, uniform_plan(traced("plain")))
