"""What stays of a layer is fitted to what the whole layer gave."""

from __future__ import annotations

import copy

import pytest
import torch
from digits_training import PREPROCESS, make_model, make_splits, run, same, silent, snapshot
from torch import Tensor, nn

from pipeline.data.preprocess import apply
from pipeline.graph import trace
from pipeline.prune import SlimmingPlan, connection_plan, slim
from pipeline.recover import accuracy, recalibrate_batch_norm, reconstruct

IMAGE = (4, 9, 11)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(count: int = 64) -> Tensor:
    return torch.randn((count, *IMAGE), generator=seeded())


def whole_plan(model: nn.Module) -> SlimmingPlan:
    return trace(model, torch.zeros(1, *IMAGE)).plan({})


def initialised(model: nn.Module) -> nn.Module:
    draw = seeded(1)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=draw) * 0.3
    return model.eval()


def disturbed(model: nn.Module) -> nn.Module:
    other, draw = copy.deepcopy(model), seeded(2)
    for parameter in other.parameters():
        parameter.data += torch.randn(parameter.shape, generator=draw) * 0.1
    return other


def refit(model: nn.Module, whole: nn.Module, plan: SlimmingPlan, inputs: Tensor, seed: int = 0) -> int:
    return reconstruct(model, whole=whole, plan=plan, inputs=inputs, seed=seed, progress=silent)


class Tokens(nn.Module):
    """A linear layer over (N, T, C), then one over (N, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.last = nn.Linear(99, 6), nn.Linear(6, 3)

    def forward(self, image: Tensor) -> Tensor:
        return self.last(self.each(image.flatten(2)).relu().mean(1))


NETS = {
    "strided": nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 5, 3)),
    "uneven": nn.Sequential(nn.Conv2d(4, 6, (1, 5), stride=(2, 1), padding=(0, 2), dilation=(1, 2))),
    "dilated": nn.Sequential(nn.Conv2d(4, 6, 3, dilation=2, padding=2, bias=False)),
    "grouped": nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6)),
    "depthwise, two outputs an input": nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, groups=4, bias=False)),
    "linear": nn.Sequential(nn.Conv2d(4, 3, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 5)),
    "tokens": Tokens(),
}


@pytest.mark.parametrize("name", NETS)
def test_disturbed_weights_come_back_where_nothing_holds_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.recover.reconstruction.HOLDS", (1e-9,))
    whole = initialised(copy.deepcopy(NETS[name]))
    model, plan = disturbed(whole), whole_plan(whole)
    layers = sum(isinstance(module, nn.Conv2d | nn.Linear) for module in whole.modules())
    assert refit(model, whole, plan, images()) == layers
    for (key, fitted), wanted in zip(model.named_parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(fitted, wanted, rtol=1e-3, atol=1e-4, msg=key)


def twins() -> nn.Module:
    """A network in which channels 4 to 7 repeat what 0 to 3 give."""
    net = initialised(
        nn.Sequential(
            nn.Conv2d(4, 8, 3),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(210, 5),
        )
    )
    net[0].weight.data[4:], net[0].bias.data[4:] = net[0].weight[:4], net[0].bias[:4]  # type: ignore[operator,index,union-attr]
    return net


def cut_twins(keep: tuple[int, ...] = (0, 1, 2, 3)) -> tuple[nn.Module, nn.Module, SlimmingPlan]:
    whole = twins()
    graph = trace(whole, torch.zeros(1, *IMAGE))
    group = next(group for group in graph.groups if group.width == 8)
    plan = graph.plan({group.name: keep})
    return slim(whole, plan), whole, plan


def test_what_a_channel_repeated_is_taken_over_by_the_one_that_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.recover.reconstruction.HOLDS", (1e-9,))
    model, whole, plan = cut_twins()
    inputs = images()
    assert (model(inputs) - whole(inputs)).abs().max() > 0.1
    refit(model, whole, plan, inputs)
    torch.testing.assert_close(model(inputs), whole(inputs), rtol=1e-3, atol=1e-3)


def test_outputs_on_other_images_are_nearer() -> None:
    model, whole, plan = cut_twins((0, 1, 2, 7))
    others = torch.randn((32, *IMAGE), generator=seeded(7))
    before = (model(others) - whole(others)).square().mean()
    refit(model, whole, plan, images(256))
    assert (model(others) - whole(others)).square().mean() < before / 4


def test_accuracy_that_a_cut_took_comes_back_in_part_without_training(tmp_path) -> None:  # type: ignore[no-untyped-def]
    splits, whole = make_splits(), make_model()
    run(whole, tmp_path / "c")
    graph = trace(whole, apply(PREPROCESS, splits.train.inputs[:1]))
    plan = graph.plan({group.name: range(group.width // 4) for group in graph.groups if group.width == 16})
    scores = []
    for fitted in (False, True):
        model = slim(whole, plan)
        if fitted:
            refit(model, whole, plan, apply(PREPROCESS, splits.train.inputs[:512]))
        recalibrate_batch_norm(model, split=splits.train, preprocess=PREPROCESS, seed=0)
        scores.append(accuracy(model, splits.test, PREPROCESS))
    assert scores[1] > scores[0] + 5


def test_the_same_seed_gives_the_same_bits_and_the_whole_network_stays_as_it_was() -> None:
    fits = []
    for seed in (0, 0, 1):
        model, whole, plan = cut_twins()
        model.train()
        before = snapshot(whole)
        refit(model, whole, plan, images(), seed)
        assert same(whole.state_dict(), before)
        assert model.training
        assert not whole.training
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in whole.modules())
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        fits.append(model.state_dict())
    assert same(fits[0], fits[1])
    assert not same(fits[0], fits[2])


class Odd(nn.Module):
    """Layers that cannot be fitted, and `plain`, which can."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Conv2d(4, 4, 1)
        self.twice = nn.Conv2d(4, 4, 1)
        self.one, self.other = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.other.weight = self.one.weight
        self.still = nn.Conv2d(4, 4, 1)
        self.still.weight.requires_grad_(False)
        self.mirrored = nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")
        self.same = nn.Conv2d(4, 4, 3, padding="same")

    def forward(self, image: Tensor) -> Tensor:
        image = self.twice(self.twice(self.plain(image)))
        return self.same(self.mirrored(self.still(self.other(self.one(image)))))


def test_layers_that_cannot_be_fitted_are_left_as_they_are() -> None:
    whole = initialised(Odd())
    model = disturbed(whole)
    before = snapshot(model)
    assert refit(model, whole, whole_plan(whole), images()) == 1
    after = model.state_dict()
    changed = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert changed == {"plain.weight", "plain.bias"}


def test_weights_that_are_zero_by_the_plan_stay_zero() -> None:
    whole = initialised(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3)))
    plan = connection_plan(trace(whole, torch.zeros(1, *IMAGE)), 0.5)
    model = slim(whole, plan)
    zeros = [parameter == 0 for parameter in model.parameters() if parameter.ndim > 1]
    refit(model, whole, plan, images())
    now = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    assert all(bool((weight[zero] == 0).all()) for weight, zero in zip(now, zeros, strict=True))


def test_a_layer_too_large_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.recover.reconstruction.MOST_INPUTS", 100)
    model, whole, plan = cut_twins()
    before = snapshot(model)
    assert refit(model, whole, plan, images()) == 2
    assert torch.equal(model[5].weight, before["5.weight"])  # type: ignore[index]


def test_a_layer_that_nothing_reaches_keeps_its_weights() -> None:
    model, whole, plan = cut_twins()
    for net in (model, whole):
        net[0].weight.data.zero_()  # type: ignore[index,union-attr,operator]
        net[0].bias.data.fill_(-1.0)  # type: ignore[index,union-attr,operator]
    before = snapshot(model)
    refit(model, whole, plan, images())
    assert torch.equal(model[2].weight, before["2.weight"])  # type: ignore[index]
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())


def test_a_single_image_and_a_network_without_layers_are_left_alone() -> None:
    model, whole, plan = cut_twins()
    before = snapshot(model)
    assert refit(model, whole, plan, images(1)) == 0
    assert same(model.state_dict(), before)
    bare = nn.Sequential(nn.ReLU())
    assert refit(bare, bare, plan, images()) == 0


def test_progress_counts_the_layers() -> None:
    model, whole, plan = cut_twins()
    told: list[tuple[int, int]] = []
    reconstruct(
        model,
        whole=whole,
        plan=plan,
        inputs=images(),
        seed=0,
        progress=lambda *, done, of, note="": told.append((done, of)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
