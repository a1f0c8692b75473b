"""The whole road, to a board: shrink the shipped example until it measurably fits, and leave it running there."""

from __future__ import annotations

import pytest
from board_host import Host
from emulated_board import Board


@pytest.mark.parametrize("runtime", ["onnxruntime", "tflite"])
def test_a_deploy(runtime: str, emu: str, board: Board, host: Host) -> None:
    wanted = ["--task", "digits", "--runtime", runtime, "--budget", "latency=80%", "--epochs", "3"]
    result = host.json("deploy", "--device", emu, *wanted, "--json", "-", timeout_s=1500)
    assert result["status"] == "met"
    (latency,) = result["budgets"]
    assert latency["reached"] <= 0.8 * latency["baseline"]
    found = host.status(emu)
    assert (found["update"]["state"], found["active"]["name"]) == ("committed", "digits")
    assert runtime in board.ssh("device-agent predict --golden --json", timeout_s=300)
