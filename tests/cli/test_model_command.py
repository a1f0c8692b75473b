from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline import load
from pipeline.cli.main import run_command

EXAMPLES = Path(__file__).parents[2] / "examples"
RESNET = [f"{EXAMPLES / 'cifar_resnet.py'}:resnet20", "--input", "1,3,32,32"]


def test_inspect_shows_groups_frozen_dimensions_and_layers(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["model", "inspect", *RESNET, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {"name": "linear", "reason": "it is part of the model's output"} in told["frozen"]
    group = next(each for each in told["groups"] if each["name"] == "layer1.0.conv1")
    assert (group["width"], group["parameters_a_unit"]) == (16, 2 * 9 * 16 + 2)
    assert told["layers"][1]["macs"] == 32 * 32 * 16 * 16 * 9
    assert told["layers"][1]["parameters"] == 16 * 16 * 9
    assert told["parameters"] == 269_722
    assert run_command(["model", "inspect", *RESNET]) == 0
    text = capsys.readouterr().out
    assert "blocks that can go: layer1.0, layer1.1" in text


def test_slim_saves_a_model_that_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "model",
        "slim",
        *RESNET,
        "--keep",
        "0.5",
        "--drop",
        "layer1.1",
        "--out",
        str(tmp_path / "small"),
    ]
    assert run_command([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    model = load(tmp_path / "small")
    assert sum(parameter.numel() for parameter in model.parameters()) == told["parameters"][1]
    assert told["macs"][1] < 0.3 * told["macs"][0]
    assert told["dropped"] == ["layer1.1"]
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert run_command(command) == 2
    assert "--force" in capsys.readouterr().err
    assert run_command([*command, "--force"]) == 0


def test_slim_zeroes_connections(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "model",
        "slim",
        *RESNET,
        "--keep",
        "1",
        "--connections",
        "2:4",
        "--out",
        str(tmp_path / "sparse"),
    ]
    assert run_command(command) == 0
    assert "of the weights left are zero" in capsys.readouterr().out
    weight = load(tmp_path / "sparse").get_parameter("layer1.0.conv1.weight")
    assert ((weight != 0).reshape(16, 4, 4, 9).sum(2) == 2).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input", "3,x"], "--input 3,x is no shape"),
        (["--input", "1,3,32,32:complex"], "is no shape"),
        (["--input", "1,5,32,32"], "does not run on inputs (1, 5, 32, 32)"),
        (["--input", "1,3,32,32", "--keep", "0"], "keep=0.0"),
        (["--input", "1,3,32,32", "--ignore", "nobody"], "nobody"),
        (["--input", "1,3,32,32", "--drop", "nobody"], "nobody"),
        (["--input", "1,3,32,32", "--connections", "few"], "--connections few"),
        (["--input", "1,3,32,32", "--kwargs", "[]"], "--kwargs must be a JSON object"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["model", "slim", RESNET[0], *arguments, "--out", str(tmp_path / "small")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "small").exists()
