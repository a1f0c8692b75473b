"""A real deploy of a small real model, made once and looked at by many tests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from deploy_home import Home, make_home


@dataclass(frozen=True)
class Deployed:
    """A finished deploy: what it printed and what it wrote."""

    home: Home
    process: subprocess.CompletedProcess[str]
    result: dict[str, Any]


@pytest.fixture(scope="session")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    home = make_home(tmp_path_factory.mktemp("deployed"))
    target = home.folder / "result.json"
    process = home.run_deploy("--json", str(target))
    assert process.returncode == 0, process.stdout + process.stderr
    return Deployed(home, process, json.loads(target.read_text()))


@pytest.fixture
def fresh_home(tmp_path: Path) -> Home:
    return make_home(tmp_path / "home")


@pytest.fixture
def home_like(deployed: Deployed, tmp_path: Path) -> Callable[..., Home]:
    """Makes homes that know the finished deploy and its trained baseline; the device is empty unless copied, too."""
    import shutil

    def make(name: str, *, device_too: bool = False) -> Home:
        folder = tmp_path / name
        shutil.copytree(deployed.home.folder, folder, symlinks=True)
        if not device_too:
            shutil.rmtree(Home(folder).agent_state, ignore_errors=True)
        return Home(folder)

    return make
