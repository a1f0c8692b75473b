"""ONNX files: right, self-contained, the same in every process, and silent."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

from pipeline.convert import converter, validate
from pipeline.errors import InputError, ModelError, StorageError

ONNX = converter("onnxruntime")
IMAGE = torch.zeros(1, 3, 16, 16)


def test_a_converted_net_answers_as_the_model_does(net: nn.Module, images: Tensor, tmp_path: Path) -> None:
    ONNX.convert(net, IMAGE, tmp_path / "net.onnx")
    agreement = validate(tmp_path / "net.onnx", "onnxruntime", net, images)
    assert agreement.sqnr_db > 100
    assert agreement.samples == 20
    assert agreement.same_class == 1.0


def test_batch_norms_are_folded_into_the_layers_before_them(net: nn.Module, tmp_path: Path) -> None:
    ONNX.convert(net, IMAGE, tmp_path / "net.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "net.onnx").graph.node}
    assert "BatchNormalization" not in operators


def test_the_file_has_one_named_input_and_output_with_fixed_shapes(
    option_a: nn.Module, tmp_path: Path
) -> None:
    ONNX.convert(option_a, IMAGE, tmp_path / "net.onnx")
    graph = onnx.load(tmp_path / "net.onnx", load_external_data=False).graph
    shapes = {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in (*graph.input, *graph.output)
    }
    assert shapes == {"input": [1, 3, 16, 16], "output": [1, 10]}
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_the_model_is_left_as_it_was(option_a: nn.Module, tmp_path: Path) -> None:
    before = {key: value.clone() for key, value in option_a.state_dict().items()}
    option_a.bn1.eval()
    ONNX.convert(option_a, IMAGE, tmp_path / "net.onnx")
    assert option_a.training
    assert not option_a.bn1.training
    assert option_a.bn2.training
    assert all(torch.equal(before[key], value) for key, value in option_a.state_dict().items())


def test_a_channels_last_half_precision_model_gives_a_plain_float32_file(
    option_a: nn.Module, tmp_path: Path
) -> None:
    rounded = option_a.to(torch.float16).float()
    ONNX.convert(rounded, IMAGE, tmp_path / "plain.onnx")
    ONNX.convert(rounded.half().to(memory_format=torch.channels_last), IMAGE, tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()


SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from convert_nets import make
from pathlib import Path
from pipeline.convert import converter
converter("onnxruntime").convert(make("option-a"), torch.zeros(1, 3, 16, 16), Path(sys.argv[2]))
"""


def test_another_process_in_another_folder_writes_the_same_bytes_and_says_nothing(
    option_a: nn.Module, tmp_path: Path
) -> None:
    here = Path(__file__).parent
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (moved / "convert_nets.py").write_bytes((here / "convert_nets.py").read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(moved), str(tmp_path / "other.onnx")],
        capture_output=True,
        cwd=here.parent.parent,
        check=True,
    )
    ONNX.convert(option_a, IMAGE, tmp_path / "net.onnx")
    data = (tmp_path / "net.onnx").read_bytes()
    assert data == (tmp_path / "other.onnx").read_bytes()
    assert (done.stdout, done.stderr) == (b"", b"")
    for leak in (b".py", b"convert_nets", b"OptionANet", str(here).encode()):
        assert leak not in data


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.relu() if x.sum() > 0 else x


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


class Pair(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Bessel(), "ONNX has no translation of the operator prims.bessel_j0"),
        (Branching(), "cannot be captured as one graph"),
        (Pair(), "must return one float tensor"),
        (nn.Linear(5, 5), r"does not run on an input of shape \(1, 3, 16, 16\)"),
    ],
)
def test_what_cannot_be_converted_is_said_in_our_words(
    model: nn.Module, words: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=words):
        ONNX.convert(model, IMAGE, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


def test_a_batch_of_two_is_refused(option_a: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="batch of one"):
        ONNX.convert(option_a, torch.zeros(2, 3, 16, 16), tmp_path / "net.onnx")


def test_a_place_that_cannot_be_written_is_a_storage_error(option_a: nn.Module, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write"):
        ONNX.convert(option_a, IMAGE, tmp_path / "file" / "net.onnx")


def test_a_full_disk_is_a_storage_error_and_leaves_the_old_file(option_a: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageError, match="no space left"):
            ONNX.convert(option_a, IMAGE, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_an_unknown_runtime_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="known runtimes: onnxruntime, tflite"):
        converter("tensorrt")
