"""Training on the bundled digits: it learns, it keeps the best epoch, it can be repeated and resumed."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import pytest
import torch
from digits_training import PREPROCESS, RECIPE, make_model, make_splits, run, same, snapshot
from torch import nn

from pipeline.data.splits import Split, Splits
from pipeline.errors import ModelError
from pipeline.recover import accuracy


def changed(**values: object) -> object:
    return dataclasses.replace(RECIPE, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_it_learns_the_digits(tmp_path: Path, precision: str) -> None:
    model = make_model()
    result = run(model, tmp_path / "c", changed(precision=precision))
    assert result.best_validation >= 94.0
    assert accuracy(model, make_splits().test, PREPROCESS) >= 92.0
    assert result.epochs == len(result.history) == 5


def test_it_ends_with_the_weights_of_the_best_epoch_in_eval_mode(tmp_path: Path) -> None:
    model = make_model()
    result = run(model, tmp_path / "c", changed(epochs=4, learning_rate=0.4))
    scores = [record.validation_accuracy for record in result.history]
    assert result.best_validation == max(scores) == scores[result.best_epoch - 1]
    assert accuracy(model, make_splits().validation, PREPROCESS) == result.best_validation
    assert not any(module.training for module in model.modules())
    assert all(parameter.is_contiguous() for parameter in model.parameters())


def test_a_model_that_no_epoch_improves_is_given_back_as_it_was(tmp_path: Path) -> None:
    model = make_model()
    run(model, tmp_path / "first")
    before = snapshot(model)
    result = run(model, tmp_path / "second", changed(epochs=1, warmup_epochs=0, learning_rate=3.0))
    assert result.best_epoch == 0
    assert same(model.state_dict(), before)


@pytest.mark.parametrize("epochs", [0, 2])
def test_where_the_teacher_knows_the_validation_examples_the_last_epoch_counts(
    tmp_path: Path, epochs: int
) -> None:
    given = make_model()
    run(given, tmp_path / "first")
    recipe = changed(epochs=epochs, warmup_epochs=0, learning_rate=3.0, patience_epochs=1)
    models = [copy.deepcopy(given) for _ in range(2)]
    first, again = (run(model, tmp_path / "c", recipe, validation_seen=True) for model in models)
    assert (first.epochs, first.best_epoch) == (epochs, 0), "patience would have ended it after one"
    assert same(models[0].state_dict(), given.state_dict()) == (epochs == 0)
    assert again == first
    assert same(models[1].state_dict(), models[0].state_dict()), "also where the training was finished before"


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tmp_path: Path) -> None:
    models = [make_model() for _ in range(3)]
    for number, (model, seed) in enumerate(zip(models, (3, 3, 4), strict=True)):
        torch.manual_seed(number)  # the global generator must not matter
        run(model, tmp_path / str(number), changed(epochs=2), seed=seed)
    assert same(models[0].state_dict(), models[1].state_dict())
    assert not same(models[0].state_dict(), models[2].state_dict())


def test_the_global_generator_is_left_alone(tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    run(make_model(), tmp_path / "c", changed(epochs=1, warmup_epochs=0))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first, second = make_model(), make_model()
    reports: list[int] = []
    result = run(first, tmp_path / "c")
    again = run(second, tmp_path / "c", progress=lambda **report: reports.append(report["done"]))
    assert again == result
    assert reports == []
    assert same(first.state_dict(), second.state_dict())


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 4},
        {"recipe": changed(epochs=3, learning_rate=0.05)},
        {"model": 5},
        {"teacher": make_model(1)},
    ],
    ids=["seed", "recipe", "start weights", "teacher"],
)
def test_the_checkpoint_of_another_training_does_not_count(tmp_path: Path, other: dict[str, object]) -> None:
    recipe = changed(epochs=3, distill_weight=0.5)
    run(make_model(), tmp_path / "c", recipe)
    start = make_model(int(other.pop("model", 0)))  # type: ignore[call-overload]
    reports: list[int] = []
    arguments = {"recipe": recipe, **other}
    run(start, tmp_path / "c", progress=lambda **report: reports.append(report["done"]), **arguments)  # type: ignore[arg-type]
    assert reports[0] == 0


def test_a_damaged_checkpoint_does_not_count(tmp_path: Path) -> None:
    recipe = changed(epochs=2)
    model = make_model()
    run(model, tmp_path / "c", recipe)
    data = (tmp_path / "c").read_bytes()
    for damaged in (data[: len(data) // 2], b"", b"\xff" * 64):
        (tmp_path / "c").write_bytes(damaged)
        again = make_model()
        run(again, tmp_path / "c", recipe)
        assert same(again.state_dict(), model.state_dict())


def test_patience_ends_a_training_that_no_longer_improves(tmp_path: Path) -> None:
    recipe = changed(epochs=50, learning_rate=1e-9, patience_epochs=3)
    result = run(make_model(dropout=0.0).eval(), tmp_path / "c", recipe)
    assert result.epochs == result.best_epoch + 3


def test_no_epochs_leave_the_model_as_it_is(tmp_path: Path) -> None:
    model = make_model()
    before = snapshot(model)
    result = run(model, tmp_path / "c", changed(epochs=0, warmup_epochs=0))
    assert (result.epochs, result.best_epoch, result.history) == (0, 0, ())
    assert same(model.state_dict(), before)


def test_a_diverged_training_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"training diverged: the loss in epoch \d+ is (nan|inf)") as caught:
        run(make_model(), tmp_path / "c", changed(learning_rate=1e30, warmup_epochs=0))
    assert "lower learning_rate" in caught.value.hint


def test_reports_come_within_an_epoch_and_name_it(tmp_path: Path) -> None:
    reports: list[tuple[int, int, str]] = []
    run(
        make_model(),
        tmp_path / "c",
        changed(epochs=2),
        progress=lambda *, done, of, note="": reports.append((done, of, note)),
    )
    places = [done for done, _, _ in reports]
    assert places == sorted(places)
    assert len(places) >= 4
    assert {of for _, of, _ in reports} == {34}  # 1,150 images: 17 whole batches of 64, twice
    assert reports[-1][2].startswith("epoch 2/2, loss ")


def test_the_rate_warms_up_and_then_falls_to_nothing(tmp_path: Path) -> None:
    result = run(make_model(), tmp_path / "c", changed(epochs=4, warmup_epochs=1, learning_rate=0.1))
    rates = [record.learning_rate for record in result.history]
    assert rates[0] == pytest.approx(0.1)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.001


def test_weight_decay_shrinks_weights_but_neither_norms_nor_biases(tmp_path: Path) -> None:
    """With dead inputs no gradient flows, so only the decay moves a parameter."""
    dead = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 10))
    dead[4].weight.data.zero_()
    dead[1].weight.data.fill_(1.0)
    dead[1].bias.data.fill_(1.0)
    dead[2].bias.data.fill_(-100.0)
    zeros = Split(torch.zeros(128, 1, 8, 8), torch.arange(128) % 10)
    recipe = changed(epochs=1, warmup_epochs=0, augment="none", weight_decay=0.1, precision="fp32")
    run(dead, tmp_path / "c", recipe, splits=Splits(zeros, zeros, zeros))
    checkpoint = (tmp_path / "c").read_bytes()
    from safetensors.torch import load

    weights = load(checkpoint)
    assert float(weights["weights/1.weight"].max()) < 1.0
    assert torch.equal(weights["weights/1.bias"], torch.ones(4))
    assert torch.equal(weights["weights/2.bias"], torch.full((4,), -100.0))


def test_distillation_pulls_towards_the_teacher_and_leaves_it_unchanged(tmp_path: Path) -> None:
    """The teacher calls every digit its neighbour; a student that hears only the teacher says so too."""
    splits = make_splits()
    neighbours = Splits(*(Split(part.inputs, (part.targets + 1) % 10) for part in vars(splits).values()))
    teacher = make_model(1)
    run(teacher, tmp_path / "teacher", splits=neighbours)
    teacher.train().zero_grad()
    before = snapshot(teacher)

    student = make_model()
    for_teacher = Splits(
        splits.train, neighbours.validation, neighbours.test
    )  # only training sees the labels
    run(student, tmp_path / "student", changed(distill_weight=1.0), splits=for_teacher, teacher=teacher)
    assert accuracy(student, neighbours.test, PREPROCESS) >= 90.0
    assert same(teacher.state_dict(), before)
    assert teacher.training
    assert all(parameter.grad is None for parameter in teacher.parameters())
