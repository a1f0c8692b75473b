"""Homes and devices for the tests of fleets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "simulators"))
sys.path.append(str(Path(__file__).parents[1] / "device_agent"))
sys.path.append(str(Path(__file__).parents[1] / "fleet"))

from named_devices import Shelf


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user of one's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    """Devices by name."""
    return Shelf(tmp_path)
