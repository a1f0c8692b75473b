from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from prunable_nets import example, make, traced
from torch import Tensor
from torch.nn import functional

from pipeline.errors import ModelError
from pipeline.prune import (
    Connections,
    SlimmingPlan,
    connection_plan,
    hold_masks,
    masks_of,
    slim,
    uniform_plan,
)
from pipeline.prune.connections import largest_n_of_m

LAYERS = ("conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight")


def weights(model: torch.nn.Module) -> Tensor:
    parameters = dict(model.named_parameters())
    return torch.cat([parameters[name].detach().reshape(-1) for name in LAYERS])


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_mask_survives_json(bits: list[bool]) -> None:
    mask = torch.tensor(bits).reshape(1, -1)
    assert torch.equal(Connections.of(mask, "unstructured").mask(), mask)


def test_the_largest_weights_of_the_whole_model_stay() -> None:
    model, graph = make("plain"), traced("plain")
    plan = connection_plan(graph, keep=0.3)
    assert SlimmingPlan.from_json(plan.to_json()) == plan
    sparse = slim(model, plan)
    before, after = weights(model), weights(sparse)
    assert int((after != 0).sum()) == round(0.3 * len(before))
    assert before[after != 0].abs().min() >= before[after == 0].abs().max()
    assert torch.equal(before[after != 0], after[after != 0])


@pytest.mark.parametrize(("pattern", "n", "m"), [("2:4", 2, 4), ("1:4", 1, 4), ("3:8", 3, 8)])
def test_n_of_every_m_inputs_stay(pattern: str, n: int, m: int) -> None:
    sparse = slim(make("plain"), connection_plan(traced("plain"), pattern=pattern))
    weight = sparse.fc1.weight
    groups = (weight != 0).reshape(weight.shape[0], -1, m) if weight.shape[1] % m == 0 else None
    assert groups is not None
    assert (groups.sum(-1) == n).all()


def test_a_shorter_rest_keeps_its_share_rounded_up() -> None:
    mask = largest_n_of_m(torch.arange(1.0, 8.0).reshape(1, 7), 2, 4)
    assert mask.tolist() == [[False, False, True, True, False, True, True]]


def test_channels_go_first_and_connections_among_what_is_left() -> None:
    model, graph = make("plain"), traced("plain")
    plan = connection_plan(graph, pattern="2:4", base=uniform_plan(graph, keep=0.5))
    sparse = slim(model, plan)
    assert sparse.fc2.weight.shape == (5, 10)
    nonzero = sparse.fc2.weight != 0
    assert (nonzero[:, :4].sum(1) == 2).all()
    assert (nonzero[:, 4:8].sum(1) == 2).all()
    assert (nonzero[:, 8:].sum(1) == 1).all()


def test_zeros_stay_zero_while_the_model_trains() -> None:
    plan = connection_plan(traced("plain"), keep=0.2)
    sparse = slim(make("plain").train(), plan)
    before = weights(sparse).clone()
    handles = hold_masks(sparse, masks_of(plan))
    optimiser = torch.optim.AdamW(sparse.parameters(), 0.05)
    for _ in range(3):
        optimiser.zero_grad()
        functional.cross_entropy(sparse(example("plain", 4)), torch.tensor([0, 1, 2, 3])).backward()
        optimiser.step()
    after = weights(sparse)
    assert (after[before == 0] == 0).all()
    assert (after[before != 0] != before[before != 0]).any()
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.0}, "keep=0.0"),
        ({"keep": 1.5}, "keep=1.5"),
        ({"pattern": "5:4"}, "5:4"),
        ({"pattern": "half"}, "'half' is no pattern"),
        ({"ignore": ["fc9.weight"]}, "fc9.weight"),
    ],
)
def test_choices_that_cannot_be_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        connection_plan(traced("plain"), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kept", ["?", "AAAA", ""])
def test_a_damaged_mask_is_one_error(kept: str) -> None:
    plan = connection_plan(traced("plain"), keep=0.2)
    damaged = replace(plan.connections["fc2.weight"], kept=kept)
    with pytest.raises(ModelError, match="connection mask"):
        slim(make("plain"), replace(plan, connections={"fc2.weight": damaged}))


def test_a_mask_of_another_parameter_is_refused() -> None:
    plan = connection_plan(traced("plain"), keep=0.2)
    with pytest.raises(ModelError, match="connections of fc9"):
        slim(make("plain"), replace(plan, connections={"fc9": plan.connections["fc2.weight"]}))
