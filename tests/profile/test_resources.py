"""Where shipped files are found."""

import shutil
import subprocess
import sys
from pathlib import Path

import pipeline
from pipeline.resources import shipped_file, shipped_names


def test_shipped_files_are_found_by_name_with_or_without_suffix() -> None:
    path = shipped_file("examples", "digits")
    assert path is not None
    assert path.is_file()
    assert shipped_file("examples", "digits.toml") == path
    assert shipped_file("examples", "nothing") is None
    assert set(shipped_names("examples")) >= {"digits", "cifar10_resnet20", "cifar10_resnet56"}


def test_an_installed_package_takes_the_files_inside_it(tmp_path: Path) -> None:
    package = Path(pipeline.__file__).parent
    for name in ("__init__.py", "resources.py"):
        (tmp_path / "pipeline").mkdir(exist_ok=True)
        shutil.copy(package / name, tmp_path / "pipeline" / name)
    folder = tmp_path / "pipeline" / "_shipped" / "profiles"
    folder.mkdir(parents=True)
    (folder / "inside.toml").touch()
    code = "from pipeline.resources import shipped_names; print(shipped_names('profiles'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ""},
    )
    assert done.stdout.strip() == "('inside',)"
