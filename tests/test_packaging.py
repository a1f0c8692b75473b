"""The wheel works without the source tree: profiles, examples and the agent travel in it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's content, unpacked as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def _run(installed: Path, code: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "XDG_CONFIG_HOME": str(installed / "none")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=installed.parent,
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_but_the_packages_is_in_the_wheel(installed: Path) -> None:
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} == {
        "pipeline",
        "device_agent",
    }


def test_profiles_and_examples_load_from_the_wheel(installed: Path) -> None:
    code = (
        "import pipeline; from pipeline.profile import load_profile; from pipeline.task import load_task\n"
        "print(pipeline.__file__)\n"
        "print([load_profile(n).name for n in ('local', 'rpi3', 'rpi4', 'rpi5', 'zero2w')])\n"
        "task = load_task('digits'); print(task.name, sum(p.numel() for p in task.build_model().parameters()) > 0)\n"
    )
    answer = _run(installed, code)
    assert answer.returncode == 0, answer.stderr
    place, profiles, task = answer.stdout.splitlines()
    assert place.startswith(str(installed))
    assert "zero2w" in profiles
    assert task == "digits True"


def test_the_local_agent_starts_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from pipeline.device.client import DeviceClient\n"
        "from pipeline.device.local import LocalTransport\n"
        f"with DeviceClient(LocalTransport(Path({str(tmp_path / 'state')!r}))) as device:\n"
        "    print(device.status().protocol)\n"
    )
    answer = _run(installed, code)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.strip() == "1"


def test_the_report_renders_from_the_wheel(installed: Path) -> None:
    code = (
        "from pipeline.report.summary import RunSummary; from pipeline.report.html import render\n"
        "print('<html' in render(RunSummary('r', '2026-01-01T00:00:00Z', 'failed')))\n"
    )
    answer = _run(installed, code)
    assert answer.stdout.strip() == "True", answer.stderr
