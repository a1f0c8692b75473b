"""A file that computes something else must not pass as the model's."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.convert import converter, validate
from pipeline.convert.validate import compare
from pipeline.errors import InputError, ModelError

IMAGE = torch.zeros(1, 3, 16, 16)


@pytest.fixture
def converted(option_a: nn.Module, tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    converter("onnxruntime").convert(option_a, IMAGE, path)
    return path


def test_a_model_whose_weights_moved_by_one_percent_is_told_apart(
    option_a: nn.Module, converted: Path, images: Tensor
) -> None:
    other = copy.deepcopy(option_a)
    with torch.no_grad():
        other.conv1.weight.mul_(1.01)
    with pytest.raises(ModelError, match=r"net\.onnx does not compute .* ratio [0-9.]+ dB"):
        validate(converted, "onnxruntime", other, images)


def test_validating_does_not_change_the_model(option_a: nn.Module, converted: Path, images: Tensor) -> None:
    before = {key: value.clone() for key, value in option_a.state_dict().items()}
    validate(converted, "onnxruntime", option_a, images)
    assert option_a.training
    assert all(torch.equal(before[key], value) for key, value in option_a.state_dict().items())


def test_figures_are_those_of_the_definition() -> None:
    expected = np.array([[3.0, 4.0], [0.0, 5.0]], dtype=np.float32)
    agreement = compare(expected, expected + np.float32(0.5) * np.array([[0, 1], [0, 0]], dtype=np.float32))
    assert agreement.max_abs_error == 0.5
    assert agreement.max_rel_error == 0.1
    assert agreement.sqnr_db == pytest.approx(10 * np.log10(50 / 0.25))
    assert agreement.same_class == 1.0


def test_the_same_outputs_have_no_error_at_all() -> None:
    same = np.ones((3, 4, 5), dtype=np.float32)
    agreement = compare(same, same)
    assert (agreement.max_abs_error, agreement.sqnr_db, agreement.same_class) == (0.0, 300.0, None)


def test_outputs_that_are_not_finite_are_refused() -> None:
    good = np.ones((1, 2), dtype=np.float32)
    with pytest.raises(ModelError, match="NaN"):
        compare(good, good * np.float32("nan"))


def test_a_file_that_is_no_model_is_refused_by_name(
    option_a: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"refuses junk\.onnx"):
        validate(tmp_path / "junk.onnx", "onnxruntime", option_a, images)


def test_no_inputs_prove_nothing(option_a: nn.Module, converted: Path, images: Tensor) -> None:
    with pytest.raises(InputError, match="at least one input"):
        validate(converted, "onnxruntime", option_a, images[:0])
