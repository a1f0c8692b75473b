"""Numbers from the emulated board, whose clock counts instructions: the same model takes the same time, always."""

from __future__ import annotations

from pathlib import Path

import pytest
from board_host import Host
from emulated_board import Board

REPEATS_WITHIN = 0.002


@pytest.mark.board_quick
def test_a_latency_repeats(emu: str, host: Host, onnx_model: Path) -> None:
    assert_repeats(host, emu, onnx_model)


def test_a_latency_repeats_in_the_other_runtime(emu: str, host: Host, tflite_model: Path) -> None:
    assert_repeats(host, emu, tflite_model)


def assert_repeats(host: Host, emu: str, model: Path) -> None:
    first, second = (host.measure(emu, model)["latency_ms"]["p50"] for _ in range(2))
    assert first > 0.1
    assert abs(first - second) <= REPEATS_WITHIN * first


def test_energy_is_power_times_time(emu: str, board: Board, host: Host, onnx_model: Path) -> None:
    board.set_power(4200)
    found = host.measure(emu, onnx_model, "--energy")
    board.set_power(3000)
    assert found["energy_method"] == "hwmon:ina226"
    assert found["energy_mj"] == pytest.approx(4.2 * found["latency_ms"]["mean"], rel=0.02)


def test_a_clock_that_is_years_off_harms_nothing(
    emu: str, board: Board, host: Host, onnx_model: Path
) -> None:
    board.ssh("date -s 2012-03-04")
    measured = host.measure(emu, onnx_model)
    host.pipeline("push", onnx_model, "--device", emu, "--name", "in-2012", "--activate")
    assert host.status(emu)["active"]["name"] == "in-2012"
    assert "nothing to do" in host.pipeline("device", "provision", emu, "--yes").out
    board.ssh("date -s 2040-03-04")
    again = host.measure(emu, onnx_model)
    assert again["latency_ms"]["p50"] == pytest.approx(measured["latency_ms"]["p50"], rel=REPEATS_WITHIN)
    host.pipeline("push", onnx_model, "--device", emu, "--name", "in-2040", "--activate")
    assert host.status(emu)["active"]["name"] == "in-2040"


def test_a_reboot_in_the_middle_of_a_measurement(
    emu: str, board: Board, host: Host, onnx_model: Path
) -> None:
    with host.start("measure", onnx_model, "--device", emu, "--runs", "100000") as measuring:
        board.wait_until("pgrep -u device-agent-worker")
        board.reboot()
        out, err = measuring.communicate(timeout=600)
    assert measuring.returncode in {0, 4}
    assert "Traceback" not in out + err
    assert host.measure(emu, onnx_model)["latency_ms"]["p50"] > 0
