"""Factories and weights that users bring."""

from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from pipeline.errors import TaskError
from pipeline.model_source import load_weights, make_model, probe


def factory(tmp_path: Path, body: str, name: str = "make") -> str:
    path = tmp_path / "user.py"
    path.write_text(body)
    return f"{path}:{name}"


def small(width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 9, 2))


def test_a_function_in_a_module_is_called_with_its_arguments() -> None:
    model = make_model("torch.nn:Linear", {"in_features": 3, "out_features": 2})
    assert isinstance(model, nn.Linear)


def test_a_module_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_models_here.py").write_text("from torch.nn import Identity as make")
    monkeypatch.chdir(tmp_path)
    assert isinstance(make_model("own_models_here:make", {}), nn.Identity)


def test_a_file_may_import_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "beside_the_factory.py").write_text("from torch.nn import Identity")
    assert isinstance(
        make_model(factory(tmp_path, "from beside_the_factory import Identity as make"), {}), nn.Identity
    )


def test_files_called_alike_do_not_meet(tmp_path: Path) -> None:
    for name in ("Identity", "ReLU"):
        (tmp_path / name).mkdir()
        model = make_model(factory(tmp_path / name, f"from torch.nn import {name} as make"), {})
        assert type(model).__name__ == name


@pytest.mark.parametrize(
    ("body", "name", "expected", "hint"),
    [
        ("import no_such_package", "make", "cannot be imported: ModuleNotFoundError", "line 1"),
        ("def make(:", "make", "cannot be imported: SyntaxError", ""),
        (
            "def make():\n    raise ValueError('no luck\\nat all')",
            "make",
            "raised ValueError: no luck",
            "line 2",
        ),
        ("def make():\n    raise SystemExit", "make", "raised SystemExit", "line 2"),
        ("def make():\n    return {}", "make", "returned dict, not a torch.nn.Module", ""),
        ("def make(width):\n    pass", "make", "raised TypeError: make() missing 1 required", ""),
        ("def make(): pass", "mak", "mak does not exist there", 'did you mean "make"?'),
        ("make = 3", "make", "make is not a function", ""),
    ],
)
def test_a_broken_factory_is_told_in_one_line(
    tmp_path: Path, body: str, name: str, expected: str, hint: str
) -> None:
    with pytest.raises(TaskError) as caught:
        make_model(factory(tmp_path, body, name), {})
    assert expected in caught.value.message
    assert "user.py" in caught.value.message
    assert "\n" not in str(caught.value)
    assert hint in caught.value.hint


def test_an_unknown_module_is_told() -> None:
    with pytest.raises(TaskError, match="no_such_module:make cannot be imported: ModuleNotFoundError"):
        make_model("no_such_module:make", {})


@pytest.mark.parametrize("kind", ["safetensors", "plain", "wrapped"])
def test_weights_are_read_in_every_allowed_form(tmp_path: Path, kind: str) -> None:
    source, target = small(), small()
    state = source.state_dict()
    path = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.th")
    if kind == "safetensors":
        save_file(state, path)
    elif kind == "plain":
        torch.save(state, path)
    else:
        prefixed = OrderedDict((f"module.{key}", value) for key, value in state.items())
        torch.save({"state_dict": prefixed, "best_prec1": 91.0}, path)
    load_weights(target, path)
    assert all(torch.equal(state[key], value) for key, value in target.state_dict().items())


def test_the_counter_of_batches_may_be_missing(tmp_path: Path) -> None:
    state = {k: v for k, v in small().state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "w.th")
    load_weights(small(), tmp_path / "w.th")


def test_keys_that_do_not_fit_are_named_and_counted(tmp_path: Path) -> None:
    state = small(5).state_dict()
    state["extra"] = state.pop("0.bias")
    torch.save(state, tmp_path / "w.th")
    with pytest.raises(TaskError) as caught:
        load_weights(small(), tmp_path / "w.th")
    message = caught.value.message
    assert "1 missing (0.bias)" in message
    assert "1 unexpected (extra)" in message
    assert "6 of another shape (0.weight: [5, 1, 3, 3] in the file, [4, 1, 3, 3] in the model" in message
    assert "and 3 more)" in message


def test_files_that_could_run_code_are_not_loaded(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "whole.pt")
    with pytest.raises(TaskError) as caught:
        load_weights(small(), tmp_path / "whole.pt")
    assert "cannot be read" in caught.value.message
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"), [("w.th", b"rubbish"), ("w.th", b""), ("w.safetensors", b"rubbish")]
)
def test_damaged_weights_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(TaskError, match="cannot be read"):
        load_weights(small(), tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {}, {"a": 1}, {3: torch.zeros(1)}])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.th")
    with pytest.raises(TaskError, match="no state_dict"):
        load_weights(small(), tmp_path / "w.th")


def test_a_probe_counts_the_classes() -> None:
    assert probe(small().eval(), (1, 5, 5)) == 2


def test_a_refused_input_shape_is_told() -> None:
    with pytest.raises(TaskError, match=r"input shape \[3, 5, 5\] is refused by the model: RuntimeError"):
        probe(small().eval(), (3, 5, 5))


def test_a_model_that_gives_no_scores_is_refused() -> None:
    with pytest.raises(
        TaskError, match=r"returns \[1, 1, 5, 5\] for one input; needed: one tensor of scores"
    ):
        probe(nn.Identity(), (1, 5, 5))
    with pytest.raises(TaskError, match="returns tuple"):
        probe(nn.MaxPool2d(5, return_indices=True), (1, 5, 5))
