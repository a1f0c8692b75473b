"""From a bare board to one that measures, by the commands that a person runs."""

from __future__ import annotations

import pytest
from board_host import EMU, Done, Host
from emulated_board import Board


@pytest.mark.board_quick
def test_enrolling_pins_the_key_that_the_board_has(enrolled: Done, board: Board, host: Host) -> None:
    assert f"pipeline device provision {EMU}" in enrolled.out
    file = host.folder / "config" / "pipeline" / "devices" / f"{EMU}.toml"
    assert f'host_key = "{board.host_key}"' in file.read_text()


@pytest.mark.board_quick
def test_a_bare_board_is_provisioned(provisioned: Done, board: Board, host: Host) -> None:
    assert "answers" in provisioned.out
    assert (
        board.ssh("systemctl is-active device-agent; systemctl is-enabled device-agent") == "active\nenabled"
    )
    assert "onnxruntime" in board.ssh("device-agent status", user="pi")
    assert "nothing to do" in host.pipeline("device", "provision", EMU, "--yes").out


@pytest.mark.board_quick
def test_its_status_tells_what_it_is_and_senses(emu: str, board: Board, host: Host) -> None:
    board.set_temperature(51.5)
    found = host.status(emu)
    board.set_temperature(45)
    assert "Raspberry Pi 4 Model B" in found["board"]["model"]
    assert (found["board"]["arch"], found["board"]["cores"]) == ("aarch64", 1)
    assert {each["name"] for each in found["runtimes"]} == {"onnxruntime", "tflite"}
    assert {"thermal:cpu-thermal", "frequency:cpufreq", "energy:hwmon:ina226"} <= set(found["sensors"])
    assert found["conditions"]["temperature_c"] == 51.5
    assert found["conditions"]["frequency_mhz"] == 1500
    assert found["trust"].startswith("keys in ")


def test_the_agent_is_there_again_after_a_reboot(emu: str, board: Board, host: Host) -> None:
    board.reboot()
    assert host.status(emu)["agent_version"]
