"""The whole road, to a board: shrink the shipped example until it measurably fits, and leave it running there."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_host import Host
from emulated_board import Board


@pytest.mark.parametrize("runtime", ["onnxruntime", "tflite"])
def test_a_deploy(runtime: str, emu: str, board: Board, host: Host, tmp_path: Path) -> None:
    wanted = ["--budget", "latency=80%", "--epochs", "3", "--runtime", runtime]
    result = tmp_path / "result.json"
    done = host.pipeline(
        "deploy", "--device", emu, "--task", "digits", *wanted, "--json", result, timeout_s=1500
    )
    assert "budgets" in done.out
    found = host.status(emu)
    assert found["update"]["state"] == "committed"
    assert found["active"]["name"] == "digits"
    assert "golden" in board.ssh("device-agent predict --golden", timeout_s=300)
