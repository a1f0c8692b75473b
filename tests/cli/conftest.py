"""Devices by name for the commands that work on them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "simulators"))
sys.path.append(str(Path(__file__).parents[1] / "device_agent"))
sys.path.append(str(Path(__file__).parents[1] / "fleet"))

from named_devices import Shelf


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """Devices by name, in a home of their own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Shelf(tmp_path)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A small ONNX file."""
    from agent_process import onnx_model

    path = tmp_path / "net.onnx"
    path.write_bytes(onnx_model(16, 3))
    return path
