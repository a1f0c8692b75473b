"""What is taken from the board in the middle of something, and that nothing comes of it but a delay."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from board_host import EMU, Host
from emulated_board import Board

STATE = "/var/lib/device-agent"
MEGABYTE = 1_000_000
WATCH = f"""
import time
end = time.monotonic() + 60
while '"{{state}}' not in open("{STATE}/journal.json").read():
    assert time.monotonic() < end, "it never came"
    time.sleep(0.001)
"""
COMPARE = b"""
import hashlib, sys
sys.path.insert(0, "/opt/device-agent/current")
from device_agent import active_model

def digest(name):
    return hashlib.sha256((model.folder / name).read_bytes()).hexdigest()

model = active_model()
assert digest("manifest.json") == model.bundle
assert all(digest(name) == told["sha256"] for name, told in model.manifest["files"].items())
print(model.bundle)
"""


def wait_for_upload(board: Board, size: int = 5 * MEGABYTE) -> None:
    """Wait until so much of an upload is on the board."""
    board.wait_until(f"[ $(du -sb {STATE}/incoming | cut -f1) -gt {size} ]")


def wait_for_state(board: Board, state: str) -> None:
    """Wait until the journal says so; some states last for some milliseconds only."""
    board.ssh("python3 -", stdin=WATCH.format(state=state).encode(), timeout_s=600)


def cut_power(board: Board) -> None:
    """Take the power away, and give it back."""
    board.power_cut()
    board.boot()


def end(process: subprocess.Popen[str]) -> int:
    """Wait for a command; it must not fail other than by saying so."""
    out, err = process.communicate(timeout=600)
    assert "Traceback" not in out + err, err
    assert process.returncode in {0, 4}, err
    return process.returncode


def active(board: Board, host: Host) -> dict[str, Any]:
    """Return the update's state, after every byte of the active bundle was compared with its digests."""
    found: dict[str, Any] = host.status(EMU)["update"]
    assert found["fault"] is None
    assert board.ssh("python3 -", user="pi", stdin=COMPARE) == found["current"]
    return found


@pytest.fixture
def before(emu: str, host: Host, onnx_model: Path) -> str:
    """The digest of the bundle that is active when something is cut."""
    host.pipeline("push", onnx_model, "--device", emu, "--name", f"before-{time.time_ns()}", "--activate")
    digest: str = host.status(emu)["update"]["current"]
    return digest


@pytest.mark.board_quick
def test_power_is_cut_in_an_upload(
    before: str, emu: str, board: Board, host: Host, heavy_model: Path
) -> None:
    with host.start("push", heavy_model, "--device", emu) as pushing:
        wait_for_upload(board)
        cut_power(board)
        ended = end(pushing)
    assert active(board, host)["current"] == before
    if ended:  # it gave up before the board was there again
        host.pipeline("push", heavy_model, "--device", emu)
    host.pipeline("activate", "--device", emu)
    assert active(board, host)["previous"] == before


@pytest.mark.parametrize("state", ["checking", "checked", "activat"])
def test_power_is_cut_in_an_activation(
    state: str, before: str, emu: str, board: Board, host: Host, onnx_model: Path
) -> None:
    with host.start("push", onnx_model, "--device", emu, "--name", f"cut-{state}", "--activate") as pushing:
        wait_for_state(board, state)
        cut_power(board)
        ended = end(pushing)
    update = active(board, host)
    assert before in ({update["current"], update["previous"]} if ended else {update["previous"]})
    host.pipeline("push", onnx_model, "--device", emu, "--name", "next", "--activate")
    assert host.status(emu)["active"]["name"] == "next"


def test_power_is_cut_while_nobody_has_confirmed(
    before: str, emu: str, board: Board, host: Host, onnx_model: Path
) -> None:
    how = ("--name", "unconfirmed", "--activate", "--confirm-within", "600")
    with host.start("push", onnx_model, "--device", emu, *how) as pushing:
        wait_for_state(board, "activated")
        cut_power(board)
        assert end(pushing) == 4
    assert active(board, host)["current"] == before


def test_what_was_activated_outlives_a_power_cut(
    before: str, emu: str, board: Board, host: Host, onnx_model: Path
) -> None:
    host.pipeline("push", onnx_model, "--device", emu, "--name", "acknowledged", "--activate")
    cut_power(board)
    assert active(board, host)["previous"] == before
    assert host.status(emu)["active"]["name"] == "acknowledged"


def test_a_connection_that_ends_is_opened_again(
    before: str, emu: str, board: Board, host: Host, heavy_model: Path
) -> None:
    with host.start("push", heavy_model, "--device", emu) as pushing:
        wait_for_upload(board)
        board.drop_connections()
        assert end(pushing) == 0
    assert active(board, host)["current"] == before


@pytest.mark.parametrize("seconds", [5, 45])
def test_a_cable_that_was_out(
    seconds: float, before: str, emu: str, board: Board, host: Host, heavy_model: Path
) -> None:
    with host.start("push", heavy_model, "--device", emu) as pushing:
        wait_for_upload(board)
        board.cable(plugged=False)
        time.sleep(seconds)
        board.cable(plugged=True)
        assert end(pushing) == 0
    assert active(board, host)["current"] == before
