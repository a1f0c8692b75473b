from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from prunable_nets import example, make, random_keep, traced
from torch import nn
from torch.nn import functional
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from pipeline.errors import ModelError
from pipeline.prune import remap_optimiser, slim

OPTIMISERS: dict[str, Callable[..., Optimizer]] = {
    "sgd": lambda parameters: SGD(parameters, 0.05, momentum=0.9, weight_decay=1e-3, nesterov=True),
    "adam": lambda parameters: Adam(parameters, 0.01, amsgrad=True),
    "adamw": lambda parameters: AdamW(parameters, 0.01, betas=(0.8, 0.9)),
    "rmsprop": lambda parameters: RMSprop(parameters, 0.01, momentum=0.5, centered=True),
}


def step(model: nn.Module, optimiser: Optimizer, seed: int) -> None:
    inputs = torch.randn(4, *example("mobile").shape[1:], generator=torch.Generator().manual_seed(seed))
    optimiser.zero_grad()
    functional.cross_entropy(model(inputs), torch.tensor([0, 1, 2, 3])).backward()
    optimiser.step()


@pytest.mark.parametrize("name", OPTIMISERS)
def test_state_follows_the_surviving_channels_and_training_goes_on(name: str) -> None:
    model, graph = make("mobile"), traced("mobile")
    optimiser = OPTIMISERS[name](model.parameters())
    for seed in range(3):
        step(model, optimiser, seed)
    before = copy.deepcopy(optimiser.state_dict())
    plan = graph.plan(random_keep(graph, 4))
    slimmed = slim(model, plan)
    remapped = remap_optimiser(optimiser, model, slimmed, plan)
    assert type(remapped) is type(optimiser)
    places = dict(slimmed.named_parameters())
    for key, parameter in model.named_parameters():
        ours, theirs = remapped.state[places[key]], optimiser.state[parameter]
        assert set(ours) == set(theirs)
        for entry, value in theirs.items():
            wanted = value
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                for dim, kept in plan.slices.get(key, {}).items():
                    wanted = wanted.index_select(dim, torch.tensor(kept))
            torch.testing.assert_close(ours[entry], wanted, rtol=0, atol=0)
    options = [{k: v for k, v in group.items() if k != "params"} for group in remapped.param_groups]
    assert options == [{k: v for k, v in group.items() if k != "params"} for group in optimiser.param_groups]
    step(slimmed, remapped, 9)
    assert all(parameter.isfinite().all() for parameter in slimmed.parameters())
    after = optimiser.state_dict()
    assert str(before) == str(after)


def test_a_step_with_the_given_gradients_is_the_step_of_the_whole_model() -> None:
    model, graph = make("plain"), traced("plain")
    optimiser = Adam(model.parameters(), 0.01)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimiser.step()
    plan = graph.plan(random_keep(graph, 2))
    slimmed = slim(model, plan)
    remapped = remap_optimiser(optimiser, model, slimmed, plan)
    whole = dict(model.named_parameters())

    def sliced(name: str, tensor: torch.Tensor) -> torch.Tensor:
        for dim, kept in plan.slices.get(name, {}).items():
            tensor = tensor.index_select(dim, torch.tensor(kept))
        return tensor

    for name, parameter in slimmed.named_parameters():
        whole[name].grad = torch.randn_like(whole[name])
        parameter.grad = sliced(name, whole[name].grad)
    optimiser.step()
    remapped.step()
    for name, parameter in slimmed.named_parameters():
        torch.testing.assert_close(parameter, sliced(name, whole[name]))


def test_groups_keep_their_options_and_lose_dropped_blocks() -> None:
    model, graph = make("option-a"), traced("option-a")
    first = list(model.layer1[1].parameters())
    rest = [each for each in model.parameters() if all(each is not one for one in first)]
    optimiser = SGD([{"params": first, "lr": 0.5}, {"params": rest}], lr=0.1)
    plan = graph.plan({}, drop=["layer1.1"])
    slimmed = slim(model, plan)
    remapped = remap_optimiser(optimiser, model, slimmed, plan)
    assert [group["lr"] for group in remapped.param_groups] == [0.1]
    assert len(remapped.param_groups[0]["params"]) == len(list(slimmed.parameters()))


def test_an_optimiser_of_another_model_is_refused() -> None:
    model, plan = make("plain"), traced("plain").plan({})
    with pytest.raises(ModelError, match="none of the model's"):
        remap_optimiser(SGD(make("plain").parameters(), 0.1), model, slim(model, plan), plan)
