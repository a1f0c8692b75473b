"""The shipped tasks and their models."""

from pathlib import Path

import pytest
import torch
from torch.nn import Conv2d, Linear, Module

from pipeline.task import load_task

KINDS = {"20": ("resnet20-12fca82f.th", 269_722, 3), "56": ("resnet56-4bfd9763.th", 853_018, 9)}


def multiply_adds(model: Module, shape: tuple[int, ...]) -> int:
    total = 0

    def count(layer: Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += layer.weight[0].numel() * output.numel()  # type: ignore[operator, index]

    for layer in model.modules():
        if isinstance(layer, Conv2d | Linear):
            layer.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, *shape))
    return total


def test_the_digits_network_is_big_enough_to_be_timed() -> None:
    task = load_task("digits")
    assert 4_000_000 < multiply_adds(task.build_model(), task.input_shape) < 6_000_000
    assert task.baseline_recipe is not None
    assert not task.baseline_saw_validation


def test_digits_load_with_a_validation_split() -> None:
    splits = load_task("digits").load_data()
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (1222, 216, 359)
    assert splits.classes == 10


@pytest.fixture(params=["20", "56"])
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Lay out a data folder with fresh weights under the published file's name and prefix."""
    name = str(request.param)
    (tmp_path / "cifar-10-batches-bin").mkdir()
    (tmp_path / "pretrained").mkdir()
    from pipeline.model_source import make_model
    from pipeline.resources import shipped_folder

    model = make_model(f"{shipped_folder('examples') / 'cifar_resnet.py'}:resnet{name}", {})
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 0.0}, tmp_path / "pretrained" / KINDS[name][0])
    monkeypatch.setenv("PIPELINE_DATA", str(tmp_path))
    return name


def test_the_cifar_tasks_find_data_and_weights_and_build(kind: str) -> None:
    task = load_task(f"examples/cifar10_resnet{kind}.toml")
    model = task.build_model()
    assert task.baseline_saw_validation
    assert task.validation_share == 0.05
    assert sum(parameter.numel() for parameter in model.parameters()) == KINDS[kind][1]
    keys = {key.removesuffix(".weight") for key in model.state_dict() if key.endswith(".weight")}
    blocks = {
        f"layer{stage}.{block}.{part}"
        for stage in (1, 2, 3)
        for block in range(KINDS[kind][2])
        for part in ("conv1", "bn1", "conv2", "bn2")
    }
    assert keys == {"conv1", "bn1", "linear"} | blocks


def test_the_option_a_shortcut_takes_every_second_pixel_between_zeros() -> None:
    from pipeline.model_source import make_model
    from pipeline.resources import shipped_folder

    model = make_model(f"{shipped_folder('examples') / 'cifar_resnet.py'}:resnet20", {})
    shortcut = model.get_submodule("layer2.0.shortcut")
    x = torch.randn(2, 16, 8, 8)
    y = shortcut(x)
    assert tuple(y.shape) == (2, 32, 4, 4)
    assert torch.equal(y[:, 8:24], x[:, :, ::2, ::2])
    assert not y[:, :8].any()
    assert not y[:, 24:].any()
