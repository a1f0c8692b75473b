"""`pipeline measure`: a file, one device or several, a number."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from device import Behaviour, Cooling, Hardware, PowerSensor, SimulatedBoard
from named_devices import Shelf, simulated, write_profile
from tflite_file import tflite_add

from pipeline.cli.main import run_command
from pipeline.cli.rows import Rows
from pipeline.device.registry import open_device


def test_a_file_is_measured_on_a_device(shelf: Shelf, net: Path, capsys) -> None:
    shelf.add("one")
    assert run_command(["measure", str(net), "--device", "one", "--runs", "140", "--operators"]) == 0
    text = capsys.readouterr().out
    for words in (
        "p50 0.",
        "p90 0.",
        "p95 0.",
        "cold start",
        "load",
        "first inference",
        "model peak",
        "not asked for (--energy)",
        "MatMul_0",
    ):
        assert words in text


def test_a_tflite_file_is_run_by_its_runtime_and_tells_no_operators(shelf: Shelf, capsys) -> None:
    shelf.add("one")
    path = shelf.profile.with_name("add.tflite")
    path.write_bytes(tflite_add())
    assert run_command(["measure", str(path), "--device", "one", "--operators"]) == 0
    text = capsys.readouterr().out
    assert "runtime       tflite" in text
    assert "no times of operators: " in text


def test_several_devices_stand_beside_each_other_and_a_dead_one_stops_none(
    shelf: Shelf, net: Path, capsys
) -> None:
    shelf.add("one", "two")
    shelf.add_dead("dead")
    assert run_command(["measure", str(net), "--device", "one", "--device", "dead", "--device", "two"]) == 4
    text = capsys.readouterr().out
    rows = [line.split()[0] for line in text.splitlines()[:4]]
    assert rows == ["device", "one", "dead", "two"]
    assert "failed" in text.splitlines()[2]
    assert "✗ dead: " in text
    assert "state folder" in text


def test_json_goes_to_stdout_alone_or_into_a_file(shelf: Shelf, net: Path, capsys) -> None:
    shelf.add("one")
    shelf.add_dead("dead")
    assert run_command(["measure", str(net), "--device", "one", "--device", "dead", "--json"]) == 4
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert (found["command"], found["ok"], found["file"]) == ("measure", False, str(net))
    one, dead = found["devices"]
    assert (one["device"], one["ok"]) == ("one", True)
    assert one["result"]["latency_ms"]["p50"] > 0
    assert one["result"]["runs"] >= 70
    assert (dead["ok"], dead["tried"]) == (False, True)
    assert "state folder" in dead["error"]["message"]
    assert "dead" in captured.err
    target = net.with_suffix(".json")
    assert run_command(["measure", str(net), "--device", "one", "--json", str(target)]) == 0
    assert json.loads(target.read_text())["devices"][0]["ok"]
    assert "p50" in capsys.readouterr().out


def test_quiet_says_nothing_but_what_failed(shelf: Shelf, net: Path, capsys) -> None:
    shelf.add("one")
    shelf.add_dead("dead")
    assert run_command(["measure", str(net), "--device", "one", "--device", "dead", "--quiet"]) == 4
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "✗ dead" in captured.err


def test_the_devices_own_profile_says_how(shelf: Shelf, net: Path, capsys) -> None:
    other = write_profile(shelf.profile.with_name("other.toml"), min_runs=150)
    shelf.add("one")
    shelf.add("two", profile=other)
    assert run_command(["measure", str(net), "--device", "one", "--device", "two", "--json"]) == 0
    one, two = json.loads(capsys.readouterr().out)["devices"]
    assert one["result"]["latency_ms"]["p90"] is not None
    assert two["result"]["runs"] >= 150


def test_fewer_runs_than_asked_for_are_told(shelf: Shelf, net: Path, monkeypatch, capsys) -> None:
    shelf.add("slow")
    board = SimulatedBoard(behaviour=Behaviour(latency_ms=lambda *_: 1000.0))
    monkeypatch.setattr("pipeline.cli.on_devices.open_device", simulated({"slow": board}))
    assert run_command(["measure", str(net), "--device", "slow", "--runs", "1000"]) == 0
    text = capsys.readouterr().out
    assert "of 1000 runs" in text
    assert "p90 n/a: " in text


def test_a_hot_board_is_told_loudly(shelf: Shelf, net: Path, monkeypatch, capsys) -> None:
    shelf.add("hot")
    cooling = Cooling(ambient_c=85.0, limit_c=80.0)
    board = SimulatedBoard(Hardware(cooling=cooling), Behaviour(others_share=0.2))
    monkeypatch.setattr("pipeline.cli.on_devices.open_device", simulated({"hot": board}))
    assert run_command(["measure", str(net), "--device", "hot"]) == 0
    text = capsys.readouterr().out
    assert "THROTTLED: the board held its processor back" in text
    assert "DISTURBED: other programs took 20.0%" in text


def test_energy_has_its_method(shelf: Shelf, net: Path, monkeypatch, capsys) -> None:
    shelf.add("metered", "plain")
    boards = {"metered": SimulatedBoard(Hardware(sensor=PowerSensor())), "plain": SimulatedBoard()}
    monkeypatch.setattr("pipeline.cli.on_devices.open_device", simulated(boards))
    assert run_command(["measure", str(net), "--device", "metered", "--device", "plain", "--energy"]) == 0
    text = capsys.readouterr().out
    assert "mJ an inference, net of idle" in text
    assert "hwmon:ina226" in text
    assert "unavailable" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.onnx"], "no such file"),
        (["{folder}"], "is a folder"),
        (["{net}", "--runtime", "tflite"], "is run by onnxruntime"),
        (["{profile}"], "ends in neither"),
        (["{net}", "--device", "nobody"], "no device is called 'nobody'"),
        (["{net}", "--device", "x*"], "no device fits"),
        (["{net}", "--device", "one", "--profile", "nothing"], "unknown profile"),
        (["{net}", "--device", "one", "--json", "result.txt"], "ends in .json"),
        (["--json", "{net}"], "Missing argument"),
        (["{net}", "--runs", "0"], "--runs"),
    ],
)
def test_bad_input_is_found_before_any_device_is_touched(
    arguments: list[str], words: str, shelf: Shelf, net: Path, monkeypatch, capsys
) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("a device was touched")

    shelf.add("one")
    monkeypatch.setattr("pipeline.cli.on_devices.open_device", touched)
    places = {"net": net, "folder": net.parent, "profile": shelf.profile}
    before = net.read_bytes()
    assert run_command(["measure", *(each.format(**places) for each in arguments)]) == 2
    assert words in capsys.readouterr().err
    assert net.read_bytes() == before


def test_a_file_that_a_runtime_refuses_is_the_devices_word(shelf: Shelf, capsys) -> None:
    shelf.add("one")
    path = shelf.profile.with_name("broken.onnx")
    path.write_bytes(b"no model")
    assert run_command(["measure", str(path), "--device", "one"]) == 4
    assert "✗ one: " in capsys.readouterr().out


def test_an_interrupt_ends_it_with_130_and_what_is_known(
    shelf: Shelf, net: Path, monkeypatch, capsys
) -> None:
    endless = write_profile(shelf.profile.with_name("endless.toml"), min_runs=10**8, max_duration_s=50.0)
    shelf.add("slow", profile=endless)
    counted = Rows.counted
    pressed: list[str] = []

    def interrupt(self: Rows, name: str, phase: str, done: int, of: int) -> None:
        counted(self, name, phase, done, of)
        if phase == "measure" and not pressed:  # once: a second one cuts the waiting short
            pressed.append(phase)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Rows, "counted", interrupt)
    assert run_command(["measure", str(net), "--device", "slow"]) == 130
    captured = capsys.readouterr()
    assert "✗ slow: stopped while it was worked on" in captured.out
    assert "interrupted" in captured.err
    with open_device("slow") as device:
        assert device.status().lease.holder is None
