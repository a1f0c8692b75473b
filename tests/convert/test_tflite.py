"""TFLite files: one conversion of the residual net in this process, one in another, and one refusal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("litert_torch", reason="the tflite extra is not installed")

from convert_nets import make

from pipeline.bundle import TensorSpec, io_specs
from pipeline.convert import converter, validate
from pipeline.errors import ModelError

TFLITE = converter("tflite")
IMAGE = torch.zeros(1, 3, 16, 16)
SCRIPT = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from convert_nets import make
from pathlib import Path
from pipeline.convert import converter
converter("tflite").convert(make("option-a"), torch.zeros(1, 3, 16, 16), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tflite") / "net.tflite"
    TFLITE.convert(make("option-a"), IMAGE, path)
    return path


def test_a_converted_net_answers_as_the_model_does(
    converted: Path, option_a: nn.Module, images: Tensor
) -> None:
    agreement = validate(converted, "tflite", option_a, images)
    assert agreement.sqnr_db > 100
    assert agreement.same_class == 1.0


def test_the_file_has_one_named_input_and_output_with_fixed_shapes(converted: Path) -> None:
    inputs, outputs = io_specs(converted, "tflite")
    assert inputs == (TensorSpec("input", (1, 3, 16, 16), "float32"),)
    assert outputs == (TensorSpec("output", (1, 10), "float32"),)


def test_another_process_writes_the_same_bytes_and_says_nothing(converted: Path, tmp_path: Path) -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(here), str(tmp_path / "other.tflite")],
        capture_output=True,
        cwd=here.parent.parent,
        check=True,
    )
    data = converted.read_bytes()
    assert data == (tmp_path / "other.tflite").read_bytes()
    assert (done.stdout, done.stderr) == (b"", b"")
    assert b"OptionANet" not in data


class Bessel(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.special.bessel_j0(x)


def test_an_operator_without_translation_is_named(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(
        ModelError, match=r"TFLite has no translation of the operator aten\.special_bessel_j0"
    ):
        TFLITE.convert(Bessel(), IMAGE, tmp_path / "net.tflite")
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")
