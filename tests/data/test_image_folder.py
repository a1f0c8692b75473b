"""Folders of images."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.data import image_folder
from pipeline.errors import DataError

SHAPE = (3, 4, 6)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for part, count in (("train", 3), ("test", 1)):
        for number, label in enumerate(("cat", "dog")):
            (tmp_path / part / label).mkdir(parents=True)
            for image in range(count):
                pixels = np.full((4, 6, 3), (10 * number, image, 200), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / label / f"{image}.png")
    return tmp_path


def test_images_become_planes_and_folders_become_classes(folder: Path) -> None:
    train, test = image_folder.load(folder, SHAPE)
    assert tuple(train.inputs.shape) == (6, 3, 4, 6)
    assert train.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert train.inputs[5, :, 0, 0].tolist() == [10, 2, 200]
    assert test.targets.tolist() == [0, 1]
    assert image_folder.class_names(folder) == ("cat", "dog")


def test_one_channel_is_read_as_grey(folder: Path) -> None:
    train, _ = image_folder.load(folder, (1, 4, 6))
    assert tuple(train.inputs.shape) == (6, 1, 4, 6)


def test_an_image_of_another_size_is_named(folder: Path) -> None:
    with pytest.raises(
        DataError, match=r"0\.png: 6 x 4 pixels, the task's input shape \[3, 8, 8\] needs 8 x 8"
    ):
        image_folder.load(folder, (3, 8, 8))


def test_a_damaged_image_is_named(folder: Path) -> None:
    path = folder / "train" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(DataError, match=r"dog/1\.png: not a readable image"):
        image_folder.load(folder, SHAPE)


def test_missing_and_empty_folders_are_named(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    with pytest.raises(DataError, match="train: no such folder"):
        image_folder.load(tmp_path_factory.mktemp("empty"), SHAPE)
    (folder / "test" / "fish").mkdir()
    with pytest.raises(DataError, match="classes in test but not in train: fish"):
        image_folder.load(folder, SHAPE)


def test_two_channels_cannot_be_images(folder: Path) -> None:
    with pytest.raises(DataError, match="1 or 3 channels"):
        image_folder.load(folder, (2, 4, 6))


def test_without_pillow_the_error_says_what_to_install(folder: Path) -> None:
    code = f"""
import sys
sys.modules["PIL"] = None
from pathlib import Path
from pipeline.data import image_folder
from pipeline.errors import DataError
try:
    image_folder.load(Path({str(folder)!r}), {SHAPE})
except DataError as error:
    sys.exit(0 if "pip install pillow" in error.hint else 1)
sys.exit(2)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
