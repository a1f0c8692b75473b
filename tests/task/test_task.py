"""Tasks: files, flags, paths, records."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import DataError, TaskError
from pipeline.task import DataSource, Preprocess, Recipe, Task, load_task, task_from_record, task_record

FACTORY = """
from torch import nn

def make(width=4):
    pooled = nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(pooled, nn.Linear(width, 2))
"""
GOOD = """
seed = 7
[model]
factory = "net.py:make"
weights = "w.safetensors"
input_shape = [1, 5, 5]
kwargs = {width = 6}
[data]
source = "npz:mine.npz"
validation_share = 0.25
labels = ["no", "yes"]
[preprocess]
mean = [3]
[recover]
epochs = 4
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A task file with everything that it names beside it."""
    monkeypatch.delenv("PIPELINE_DATA", raising=False)
    (tmp_path / "net.py").write_text(FACTORY)
    (tmp_path / "task.toml").write_text(GOOD)
    targets = np.arange(16) % 2
    images = np.zeros((16, 1, 5, 5), np.uint8)
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=targets, x_test=images, y_test=targets)
    model = bare(tmp_path / "net.py").build_model()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    return tmp_path


def bare(path: Path) -> Task:
    """A task around one factory file, without weights."""
    return Task(
        name="bare",
        factory=f"{path}:make",
        weights=None,
        input_shape=(1, 5, 5),
        data=DataSource("digits", None),
        validation_share=0.1,
        preprocess=Preprocess(),
        baseline_recipe=Recipe(1),
        recover_recipe=Recipe(1),
        baseline_saw_validation=False,
        seed=0,
        labels=None,
        source="test",
        kwargs={"width": 6},
    )


def load(folder: Path, **flags: object) -> Task:
    return load_task(str(folder / "task.toml"), **flags)  # type: ignore[arg-type]


def change(folder: Path, old: str, new: str) -> None:
    path = folder / "task.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused(folder: Path) -> str:
    with pytest.raises(TaskError) as caught:
        load(folder)
    return caught.value.message


def test_a_task_file_is_read_whole(folder: Path) -> None:
    task = load(folder)
    assert task.name == "task"
    assert task.factory == f"{folder / 'net.py'}:make"
    assert task.weights == folder / "w.safetensors"
    assert task.data == DataSource("npz", folder / "mine.npz")
    assert task.preprocess == Preprocess(1.0, (3.0,), (1.0,))
    assert task.recover_recipe == Recipe(epochs=4)
    assert (task.seed, task.labels, task.kwargs) == (7, ("no", "yes"), {"width": 6})
    assert task.baseline_recipe is None


def test_its_model_has_the_files_weights_and_is_in_eval_mode(folder: Path) -> None:
    model = load(folder).build_model()
    expected = bare(folder / "net.py").build_model().state_dict()
    assert not model.training
    assert all(torch.equal(expected[key], value) for key, value in model.state_dict().items())


def test_fresh_weights_can_be_asked_for(folder: Path) -> None:
    task = load(folder)
    given, fresh = task.build_model().state_dict(), task.build_model(fresh=True).state_dict()
    assert not torch.equal(given["1.weight"], fresh["1.weight"])


def test_its_data_are_split_and_reproducible(folder: Path) -> None:
    splits = load(folder).load_data()
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (12, 4, 16)
    assert torch.equal(splits.validation.targets, load(folder).load_data().validation.targets)


def test_fresh_weights_depend_on_the_seed_alone(folder: Path) -> None:
    task = bare(folder / "net.py")
    torch.manual_seed(1)
    first = task.build_model().state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    second = task.build_model().state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[recover]", "[recovr]", 'recovr: unknown key; did you mean "recover"?'),
        (
            "input_shape = [1, 5, 5]",
            "input_shape = [1, 5]",
            "model.input_shape: found [1, 5]; allowed: channels",
        ),
        ("[1, 5, 5]", "[1, 0, 5]", "model.input_shape[1]: found 0"),
        ("net.py:make", "net.py", 'model.factory: found "net.py"; allowed: "package.module:function"'),
        ("npz:mine.npz", "imagenet", 'data.source: found "imagenet"; allowed: "digits", "cifar10:DIR"'),
        ("npz:mine.npz", "npz:", 'data.source: found "npz:"'),
        ("npz:mine.npz", "digits:x", 'data.source: found "digits:x"'),
        ("0.25", "25", "data.validation_share: found 25; allowed: a share"),
        (
            "epochs = 4",
            "epochs = 4\nwarmup_epochs = 4",
            "recover.warmup_epochs: found 4; allowed: fewer than epochs",
        ),
        ("epochs = 4", 'epochs = 4\naugment = "flip"', '"none", "crop-flip" or "shift"'),
        ("epochs = 4", "", "recover.epochs: missing; needed: a whole number"),
        ("mean = [3]", "mean = [1, 2, 3]", "preprocess.mean: found 3 numbers"),
        ("mean = [3]", "std = [0.0]", "preprocess.std[0]: found 0.0"),
        ('["no", "yes"]', '["no", "no"]', "data.labels: found the same name twice"),
        (
            'weights = "w.safetensors"',
            "",
            "model.weights: missing; needed: trained weights, or a table [baseline]",
        ),
    ],
)
def test_a_fault_names_key_found_and_allowed(folder: Path, old: str, new: str, expected: str) -> None:
    change(folder, old, new)
    message = refused(folder)
    assert expected in message
    assert message.startswith(f"{folder / 'task.toml'}: ")


def test_all_faults_of_a_task_come_at_once(folder: Path) -> None:
    change(folder, "seed = 7", "seed = -1\nnmae = 1")
    change(folder, "[1, 5, 5]", '"big"')
    assert len(refused(folder).splitlines()) == 3


def test_a_missing_factory_file_is_named(folder: Path) -> None:
    (folder / "net.py").unlink()
    assert f"no such file: {folder / 'net.py'}" in refused(folder)


def test_missing_weights_list_where_they_were_looked_for(folder: Path) -> None:
    (folder / "w.safetensors").unlink()
    message = refused(folder)
    assert f"weights w.safetensors: not found; looked for {folder / 'w.safetensors'}" in message


def test_missing_data_are_a_data_error(folder: Path) -> None:
    (folder / "mine.npz").unlink()
    with pytest.raises(DataError, match=r"data mine\.npz: not found"):
        load(folder)


def test_the_data_option_is_searched_first(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "pretrained").mkdir()
    (other / "pretrained" / "w.safetensors").write_bytes((folder / "w.safetensors").read_bytes())
    (other / "mine.npz").write_bytes((folder / "mine.npz").read_bytes())
    task = load(folder, data=other)
    assert task.data.path == other / "mine.npz"
    assert task.weights == other / "pretrained" / "w.safetensors"


def test_flags_alone_make_a_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "elsewhere").mkdir()
    save_file(bare(folder / "net.py").build_model().state_dict(), folder / "wide.safetensors")
    monkeypatch.chdir(folder)
    (folder / "net.py").write_text(FACTORY.replace("width=4", "width=6"))
    task = load_task(
        factory="net.py:make", weights="wide.safetensors", data_source="npz:mine.npz", input_shape=(1, 5, 5)
    )
    assert task.name == "make"
    assert task.factory == f"{folder / 'net.py'}:make"
    assert task.weights == folder / "wide.safetensors"
    assert len(task.load_data().test) == 16


def test_flags_that_are_not_enough_say_what_is_missing() -> None:
    with pytest.raises(TaskError) as caught:
        load_task(factory="net.py:make")
    assert "model.input_shape: missing" in caught.value.message
    assert "data.source: missing" not in caught.value.message
    assert "data: missing" in caught.value.message


def test_flags_replace_what_the_file_says(folder: Path) -> None:
    assert load(folder, data_source="digits").data == DataSource("digits", None)
    assert load(folder, input_shape=[1, 8, 8]).input_shape == (1, 8, 8)


def test_data_of_another_shape_are_refused(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"training inputs have shape \[1, 5, 5\], the task's input_shape is \[3,"
    ):
        load(folder, input_shape=[3, 5, 5]).load_data()


def test_more_classes_than_labels_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="holds class 9, the task names 2 classes"):
        load(folder, data_source="digits", input_shape=[1, 8, 8]).load_data()


def test_more_labels_than_scores_are_refused(folder: Path) -> None:
    change(folder, '["no", "yes"]', '["no", "yes", "maybe"]')
    with pytest.raises(TaskError, match="gives 2 scores, the data has 3 classes"):
        load(folder).build_model()


def test_a_record_gives_the_same_task_back(folder: Path) -> None:
    task = load(folder)
    assert task_from_record(json.loads(json.dumps(task_record(task)))) == task
    digits = load_task("digits")
    assert task_from_record(json.loads(json.dumps(task_record(digits)))) == digits


def test_a_record_refuses_changed_or_lost_weights(folder: Path) -> None:
    record = task_record(load(folder))
    with (folder / "w.safetensors").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(TaskError, match="have changed"):
        task_from_record(record)
    (folder / "w.safetensors").unlink()
    with pytest.raises(TaskError, match="cannot be read"):
        task_from_record(record)
    with pytest.raises(TaskError, match="not the record of a task"):
        task_from_record({"name": "x"})


def test_a_shipped_task_is_found_by_name_and_by_its_path_in_the_source() -> None:
    assert load_task("digits") == load_task("digits.toml")
    assert load_task("examples/digits.toml").name == "digits"


def test_a_given_path_comes_before_the_shipped_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "examples").mkdir()
    own = GOOD.replace("net.py", "../net.py").replace('"w.', '"../w.').replace("npz:mine", "npz:../mine")
    (folder / "examples" / "digits.toml").write_text(own)
    monkeypatch.chdir(folder)
    assert load_task("examples/digits.toml").seed == 7


def test_an_unknown_task_lists_the_known_ones() -> None:
    with pytest.raises(TaskError) as caught:
        load_task("digit")
    assert 'did you mean "digits"' in caught.value.hint
    with pytest.raises(TaskError, match=r"task elsewhere/digits\.toml: no such file"):
        load_task("elsewhere/digits.toml")
