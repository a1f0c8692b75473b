from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import ModelError, PipelineError
from pipeline.graph import trace
from pipeline.model_source import make_model
from pipeline.prune import connection_plan, load, save, slim, uniform_plan

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=12, baked=False):
        super().__init__()
        self.conv, self.bn, self.baked = nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), baked
        self.last = nn.Conv2d(width, 4, 1)
        self.register_buffer("scale", torch.ones(width, 1, 1), persistent=False)

    def forward(self, x):
        x = torch.relu(self.bn(self.conv(x))) * self.scale
        if self.baked:
            x = x.view(-1, 6, 2, 64).flatten(1, 2).view(-1, 12, 8, 8)
        return self.last(x).mean((2, 3))

def build(width=12, baked=False):
    torch.manual_seed(0)
    return Net(width, baked)
"""
IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def source(tmp_path: Path) -> str:
    file = tmp_path / "net.py"
    file.write_text(SOURCE)
    return f"{file}:build"


def slimmed(source: str, **arguments: object) -> tuple[object, torch.nn.Module]:
    model = make_model(source, arguments).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))  # not what the factory gives
    model.scale.mul_(0.7)
    plan = uniform_plan(trace(model, IMAGE), keep=0.5)
    return plan, slim(model, plan)


@pytest.mark.parametrize("baked", [False, True])
def test_a_fresh_process_gives_the_same_outputs_bit_for_bit(source: str, tmp_path: Path, baked: bool) -> None:
    plan, model = slimmed(source, baked=baked)
    assert plan.form == ("graph" if baked else "module")  # type: ignore[attr-defined]
    save(tmp_path / "small", (source, {"baked": baked}), plan, model)  # type: ignore[arg-type]
    save_file({"image": IMAGE}, tmp_path / "image.safetensors")
    code = (
        "import sys, pipeline\n"
        "from safetensors.torch import load_file, save_file\n"
        "model, image = pipeline.load(sys.argv[1]), load_file(sys.argv[2])['image']\n"
        "save_file({'out': model(image).detach()}, sys.argv[3])\n"
    )
    files = [tmp_path / name for name in ("small", "image.safetensors", "out.safetensors")]
    subprocess.run([sys.executable, "-c", code, *map(str, files)], check=True)
    from safetensors.torch import load_file

    assert torch.equal(load_file(files[2])["out"], model(IMAGE))


def test_modes_dtypes_and_frozen_parameters_come_back(source: str, tmp_path: Path) -> None:
    plan, model = slimmed(source)
    model.double().train()
    model.bn.eval()
    model.conv.weight.requires_grad_(False)
    save(tmp_path / "small", source, plan, model)  # type: ignore[arg-type]
    found = load(tmp_path / "small")
    assert found.training
    assert not found.bn.training
    assert found.conv.weight.dtype == torch.float64
    assert [p.requires_grad for p in found.parameters()] == [p.requires_grad for p in model.parameters()]
    assert torch.equal(found.scale, model.scale)


def test_zeroed_connections_come_back(source: str, tmp_path: Path) -> None:
    model = make_model(source, {}).eval()
    plan = connection_plan(trace(model, IMAGE), keep=0.3)
    sparse = slim(model, plan)
    save(tmp_path / "sparse", source, plan, sparse)
    assert torch.equal(load(tmp_path / "sparse")(IMAGE), sparse(IMAGE))


def test_saving_again_replaces_and_leaves_nothing_behind(source: str, tmp_path: Path) -> None:
    plan, model = slimmed(source)
    for _ in range(2):
        with torch.no_grad():
            model.last.bias.add_(1)
        save(tmp_path / "small", source, plan, model)  # type: ignore[arg-type]
    assert torch.equal(load(tmp_path / "small").last.bias, model.last.bias)
    assert sorted(each.name for each in tmp_path.iterdir() if "small" in each.name) == ["small"]


def test_a_folder_of_something_else_is_not_touched(source: str, tmp_path: Path) -> None:
    plan, model = slimmed(source)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(ModelError, match="is no saved model"):
        save(tmp_path / "mine", source, plan, model)  # type: ignore[arg-type]
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_factories_that_no_other_process_could_call_are_refused(source: str, tmp_path: Path) -> None:
    plan, model = slimmed(source)
    for factory in (lambda: make_model(source, {}), (source, {"width": {1, 2}})):
        with pytest.raises(ModelError, match=r"cannot be imported by name|no JSON"):
            save(tmp_path / "small", factory, plan, model)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="gives another model"):
        save(tmp_path / "small", (source, {"width": 16}), plan, model)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="was not slimmed with this plan"):
        save(tmp_path / "small", source, plan, make_model(source, {}))  # type: ignore[arg-type]
    assert not (tmp_path / "small").exists()


def damage_weights(folder: Path) -> None:
    content = bytearray((folder / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "weights.safetensors").write_bytes(content)


def other_format(folder: Path) -> None:
    saved = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**saved, "format": 99}))


def other_code(folder: Path) -> None:
    file = folder.parent / "other.py"
    file.write_text(SOURCE.replace("4, 1)", "5, 1)"))
    saved = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**saved, "factory": f"{file}:build"}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (damage_weights, "weights.safetensors is damaged"),
        (lambda folder: (folder / "plan.json").write_text("{}"), "plan.json is damaged"),
        (lambda folder: (folder / "plan.json").unlink(), "plan.json cannot be read"),
        (lambda folder: (folder / "model.json").write_text("nonsense"), "model.json is damaged"),
        (lambda folder: (folder / "model.json").unlink(), "is no saved model"),
        (other_format, "format 99"),
        (other_code, "of another model"),
    ],
)
def test_what_is_damaged_is_named(source: str, tmp_path: Path, spoil: object, message: str) -> None:
    plan, model = slimmed(source)
    save(tmp_path / "small", source, plan, model)  # type: ignore[arg-type]
    spoil(tmp_path / "small")  # type: ignore[operator]
    with pytest.raises(PipelineError, match=message):
        load(tmp_path / "small")
