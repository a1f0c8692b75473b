from __future__ import annotations

import copy

import pytest
import torch
from prunable_nets import example, make, traced
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import ModelError
from pipeline.graph import trace
from pipeline.prune import score

LABELS = torch.tensor([0, 3])


def batches(name: str, count: int = 2) -> list[tuple[Tensor, Tensor]]:
    return [(example(name) * (1 + step), LABELS) for step in range(count)]


def test_magnitude_is_the_norm_over_all_slices_of_a_unit() -> None:
    model = make("plain")
    slices = [
        [
            model.conv1.weight[5],
            model.conv1.bias[5],
            model.bn1.weight[5],
            model.bn1.bias[5],
            model.conv2.weight[:, 5],
        ],
        [model.conv2.weight[7], model.conv2.bias[7], model.fc1.weight[:, 112:128]],
    ]
    for order, name in ((1, "l1"), (2, "l2")):
        scores = score(model, traced("plain"), name)
        for group, unit, parts in (("conv1", 5, slices[0]), ("conv2", 7, slices[1])):
            flat = torch.cat([part.detach().flatten() for part in parts]).double()
            assert scores[group][unit].item() == pytest.approx(torch.linalg.vector_norm(flat, order).item())


@pytest.mark.parametrize("name", ["plain", "concat", "mobile", "grouped"])
def test_taylor_is_the_squared_slope_of_a_gate_where_the_unit_is_consumed(name: str) -> None:
    """Scaling a unit's slice of every consumer by z = 1 + ε moves the loss by ε ∂E/∂z."""
    model, graph = make(name).double(), traced(name)
    x, epsilon = example(name).double(), 1e-5
    scores = score(model, graph, "taylor", [(x, LABELS)])
    for group in graph.groups:
        for unit in (0, group.width - 1):
            losses = []
            for z in (1 + epsilon, 1 - epsilon):
                gated = copy.deepcopy(model)
                for member in group.members:
                    if member.role == "in":
                        weight = gated.get_parameter(member.parameter).data
                        for index in member.indices[unit]:
                            weight.select(member.dim, index).mul_(z)
                losses.append(functional.cross_entropy(gated(x), LABELS).item())
            slope = (losses[0] - losses[1]) / (2 * epsilon)
            assert scores[group.name][unit].item() == pytest.approx(slope**2, rel=1e-3, abs=1e-10)


def test_taylor_is_the_mean_over_batches_and_is_deterministic() -> None:
    model, graph = make("projection"), traced("projection")
    both = score(model, graph, "taylor", batches("projection"))
    again = score(model, graph, "taylor", batches("projection"))
    alone = [score(model, graph, "taylor", [batch]) for batch in batches("projection")]
    for name, scores in both.items():
        assert torch.equal(scores, again[name])
        torch.testing.assert_close(scores, (alone[0][name] + alone[1][name]) / 2)


@pytest.mark.parametrize("criterion", ["l1", "l2", "taylor"])
def test_scoring_leaves_the_model_as_it_was(criterion: str) -> None:
    model = make("mobile").train()
    model.fc.weight.requires_grad_(False)
    model.stem[0].weight.grad = torch.ones_like(model.stem[0].weight)
    before = copy.deepcopy(model.state_dict())
    scores = score(model, traced("mobile"), criterion, batches("mobile"))
    assert {name: len(values) for name, values in scores.items()} == traced("mobile").widths()
    assert all((values >= 0).all() and values.any() for values in scores.values())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.training
    assert not model.fc.weight.requires_grad
    assert model.fc.weight.grad is None
    assert torch.equal(model.stem[0].weight.grad, torch.ones_like(model.stem[0].weight))


class StripesNet(nn.Module):
    """Tells horizontal from vertical stripes; `dead` units of the first layer can never fire."""

    dead = (1, 4, 7)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3)
        self.last = nn.Conv2d(8, 6, 3)
        self.fc = nn.Linear(6, 2)
        with torch.no_grad():
            self.conv.bias[list(self.dead)] = -100.0

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.last(functional.relu(self.conv(x))))
        return self.fc(x.mean((2, 3)))


def stripes(count: int) -> tuple[Tensor, Tensor]:
    labels = torch.arange(count) % 2
    wave = torch.sin(torch.arange(10) * 1.5 + torch.rand(count, 1) * 6)[:, None, None, :]
    image = wave.expand(count, 1, 10, 10)
    image = torch.where(labels[:, None, None, None] == 1, image.transpose(2, 3), image)
    return image + 0.2 * torch.randn(count, 1, 10, 10), labels


def test_taylor_ranks_the_dead_channels_of_a_trained_model_lowest() -> None:
    torch.manual_seed(0)
    model = StripesNet()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        x, y = stripes(64)
        optimiser.zero_grad()
        functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    x, y = stripes(200)
    assert (model(x).argmax(1) == y).float().mean() > 0.9
    scores = score(model, trace(model, x[:1]), "taylor", [stripes(64) for _ in range(4)])["conv"]
    assert sorted(torch.argsort(scores, stable=True)[:3].tolist()) == list(StripesNet.dead)
    assert scores[list(StripesNet.dead)].tolist() == [0.0, 0.0, 0.0]


def test_scores_of_another_model_or_without_data_are_refused() -> None:
    with pytest.raises(ModelError, match="graph is of another model"):
        score(make("concat"), traced("plain"), "l1")
    with pytest.raises(ModelError, match="needs batches"):
        score(make("plain"), traced("plain"), "taylor")
    with pytest.raises(ModelError, match="got no batches"):
        score(make("plain"), traced("plain"), "taylor", [])
    with pytest.raises(ModelError, match="not a finite number"):
        score(make("plain"), traced("plain"), "taylor", [(example("plain") * float("nan"), LABELS)])
