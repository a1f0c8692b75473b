"""Where data and weights are looked for."""

import os
from pathlib import Path

import pytest

from pipeline.data.find import find
from pipeline.errors import DataError


@pytest.fixture
def roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    folders = {name: tmp_path / name for name in ("option", "beside", "first", "second")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setenv("PIPELINE_DATA", os.pathsep.join([str(folders["first"]), str(folders["second"])]))
    return folders


def test_the_option_comes_first_then_beside_then_the_variable(roots: dict[str, Path]) -> None:
    for name in ("second", "first", "beside", "option"):
        (roots[name] / "x.npz").touch()
        found = find("x.npz", "data", DataError, beside=roots["beside"], extra=roots["option"])
        assert found == roots[name] / "x.npz"


def test_an_absolute_path_is_taken_as_it_is(roots: dict[str, Path]) -> None:
    (roots["second"] / "x.npz").touch()
    with pytest.raises(DataError, match=r"looked for /nowhere/x\.npz"):
        find("/nowhere/x.npz", "data", DataError, beside=roots["beside"])
    path = roots["second"] / "x.npz"
    assert find(str(path), "data", DataError, beside=roots["beside"]) == path


def test_the_variable_may_name_the_folder_itself(
    roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = roots["first"] / "cifar-10-batches-bin"
    folder.mkdir()
    for value in (folder, folder.parent):
        monkeypatch.setenv("PIPELINE_DATA", str(value))
        found = find(folder.name, "data", DataError, beside=roots["beside"], mark="test_batch.bin")
        assert found == folder


def test_a_folder_of_another_name_is_known_by_its_mark(roots: dict[str, Path]) -> None:
    (roots["option"] / "test_batch.bin").touch()
    arguments = {"beside": roots["beside"], "extra": roots["option"]}
    assert find("cifar", "data", DataError, mark="test_batch.bin", **arguments) == roots["option"]
    with pytest.raises(DataError):
        find("cifar", "data", DataError, **arguments)


def test_weights_are_looked_for_in_a_subfolder_too(roots: dict[str, Path]) -> None:
    (roots["second"] / "pretrained").mkdir()
    path = roots["second"] / "pretrained" / "w.th"
    path.touch()
    assert find("w.th", "weights", DataError, beside=roots["beside"], inside="pretrained") == path


def test_not_found_lists_where_it_looked_and_what_to_do(roots: dict[str, Path]) -> None:
    with pytest.raises(DataError) as caught:
        find("x.npz", "data", DataError, beside=roots["beside"], extra=roots["option"])
    for folder in roots.values():
        assert str(folder / "x.npz") in caught.value.message
    assert "PIPELINE_DATA" in caught.value.hint
    assert "--data" in caught.value.hint


def test_without_the_variable_only_the_given_folders_count(
    roots: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIPELINE_DATA")
    (roots["first"] / "x.npz").touch()
    with pytest.raises(DataError):
        find("x.npz", "data", DataError, beside=roots["beside"])
