"""Recalibration measures the statistics that training would have left behind."""

from __future__ import annotations

import torch
from digits_training import PREPROCESS, make_model, make_splits, run, same, snapshot
from torch import nn

from pipeline.data.preprocess import apply
from pipeline.recover import accuracy, batch_statistics, recalibrate_batch_norm


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def recalibrate(model: nn.Module, seed: int = 0) -> None:
    recalibrate_batch_norm(model, split=make_splits().train, preprocess=PREPROCESS, seed=seed)


def test_ruined_statistics_and_accuracy_come_back(tmp_path) -> None:  # type: ignore[no-untyped-def]
    model, splits = make_model(), make_splits()
    run(model, tmp_path / "c")
    before = accuracy(model, splits.test, PREPROCESS)
    for norm in norms(model):
        norm.running_mean.fill_(5.0)
        norm.running_var.fill_(0.1)
    ruined = accuracy(model, splits.test, PREPROCESS)
    recalibrate(model)
    assert ruined < 50.0
    assert accuracy(model, splits.test, PREPROCESS) >= before - 2.0


def test_the_first_norm_holds_the_data_s_own_mean_and_variance() -> None:
    model, splits = make_model(), make_splits()
    recalibrate(model)
    with torch.no_grad():
        seen = model[0](apply(PREPROCESS, splits.train.inputs))  # type: ignore[operator]
    norm = norms(model)[0]
    torch.testing.assert_close(norm.running_mean, seen.mean((0, 2, 3)), rtol=0.05, atol=0.02)
    torch.testing.assert_close(norm.running_var, seen.var((0, 2, 3)), rtol=0.05, atol=0.02)


def test_it_is_the_same_every_time_whatever_the_old_statistics_and_dropout() -> None:
    one, other = make_model(dropout=0.5), make_model(dropout=0.5)
    for norm in norms(other):
        norm.running_mean.fill_(9.0)
        norm.num_batches_tracked.fill_(1000)
    recalibrate(one)
    recalibrate(other)
    assert same(one.state_dict(), other.state_dict())


def test_parameters_modes_and_momentum_stay_as_they_were() -> None:
    model = make_model()
    model.train()
    model[0].eval()  # type: ignore[operator]
    modes = [module.training for module in model.modules()]
    momenta = [norm.momentum for norm in norms(model)]
    before = {name: value.clone() for name, value in model.named_parameters()}
    recalibrate(model)
    assert [module.training for module in model.modules()] == modes
    assert [norm.momentum for norm in norms(model)] == momenta
    assert same(dict(model.named_parameters()), before)


def test_a_model_without_batch_norm_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    before = snapshot(model)
    recalibrate(model)
    assert same(model.state_dict(), before)


def test_with_the_batch_s_own_statistics_ruined_ones_do_not_count_and_nothing_changes() -> None:
    model, splits = make_model(dropout=0.5).eval(), make_splits()
    inputs = apply(PREPROCESS, splits.train.inputs[:64])
    with torch.no_grad(), batch_statistics(model):
        wanted = model(inputs)
    for norm in norms(model):
        norm.running_mean.fill_(5.0)
    before = snapshot(model)
    with torch.no_grad(), batch_statistics(model):
        torch.testing.assert_close(model(inputs), wanted)
    assert same(snapshot(model), before)
    assert not any(module.training for module in model.modules())
    assert all(norm.track_running_stats for norm in norms(model))
