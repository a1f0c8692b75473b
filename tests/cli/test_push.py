"""`pipeline push`: onto devices, checked there, and active only where that was asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from agent_process import onnx_model
from device import SimulatedBoard
from named_devices import Shelf, simulated, write_profile
from tflite_file import tflite_add

from pipeline.cli.main import run_command
from pipeline.device.registry import open_device
from pipeline.signing import default_key_file, new_key


def asked(name: str) -> Any:
    with open_device(name) as device:
        return device.status()


def pushed(capsys, *arguments: str, code: int = 0) -> dict[str, Any]:
    assert run_command(["push", *arguments, "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_a_bare_file_is_checked_on_all_devices_and_active_on_none(shelf: Shelf, net: Path, capsys) -> None:
    shelf.add("one", "two")
    shelf.add_dead("dead")
    devices = ["--device", "one", "--device", "dead", "--device", "two"]
    found = pushed(capsys, str(net), *devices, code=4)
    assert [each["ok"] for each in found["devices"]] == [True, False, True]
    result = found["devices"][0]["result"]
    assert result["activated"] is None
    assert result["delivered"]["check"]["ok"]
    assert result["delivered"]["sent_bytes"] > net.stat().st_size
    assert found["bundle"]["name"] == "net"
    for name in ("one", "two"):
        update = asked(name).update
        assert (update.staged, update.state, update.current) == (found["bundle"]["digest"], "checked", None)


def test_the_table_says_what_went_over_the_wire(shelf: Shelf, net: Path, capsys) -> None:
    shelf.add("one")
    assert run_command(["push", str(net), "--device", "one"]) == 0
    text = capsys.readouterr().out
    assert "passed, largest error" in text
    assert "staged" in text
    assert "not signed" in text
    folder = text.splitlines()[1].removeprefix("in ")
    assert run_command(["push", folder, "--device", "one"]) == 0
    row = capsys.readouterr().out.splitlines()[3].split()
    assert row[:4] == ["one", "0", "B", "4"]  # all four files were there


def test_push_and_activate_name_the_model_everywhere(shelf: Shelf, capsys) -> None:
    shelf.add("one", "two")
    path = shelf.profile.with_name("add.tflite")
    path.write_bytes(tflite_add())
    devices = ["--device", "one", "--device", "two"]
    found = pushed(capsys, str(path), *devices, "--name", "adder", "--activate")
    assert [each["result"]["activated"]["already"] for each in found["devices"]] == [False, False]
    for name in ("one", "two"):
        status = asked(name)
        assert (status.update.current, status.update.state) == (found["bundle"]["digest"], "committed")
        assert (status.active.name, status.active.runtime) == ("adder", "tflite")
    again = pushed(capsys, found["bundle"]["folder"], *devices, "--activate")
    assert [each["result"]["activated"]["already"] for each in again["devices"]] == [True, True]


def test_each_push_of_a_file_is_newer_than_what_any_device_has_seen(shelf: Shelf, net: Path, capsys) -> None:
    shelf.add("one", "two")
    first = pushed(capsys, str(net), "--device", "one", "--activate")["bundle"]["sequence"]
    net.write_bytes(onnx_model(8))
    found = pushed(capsys, str(net), "--device", "two", "--device", "one", "--activate")
    assert found["bundle"]["sequence"] > first


def test_an_older_bundle_is_refused_with_the_way_out(shelf: Shelf, net: Path, capsys) -> None:
    shelf.add("one")
    old = pushed(capsys, str(net), "--device", "one")["bundle"]["folder"]
    net.write_bytes(onnx_model(8))
    pushed(capsys, str(net), "--device", "one", "--activate")
    refused = pushed(capsys, old, "--device", "one", code=4)["devices"][0]["error"]
    assert refused["code"] == "older_refused"
    assert "--allow-downgrade" in refused["hint"]
    assert pushed(capsys, old, "--device", "one", "--allow-downgrade")["ok"]


def test_a_wrong_answer_on_a_device_keeps_what_it_has(shelf: Shelf, net: Path, monkeypatch, capsys) -> None:
    shelf.add("good", "bad")
    boards = {"good": SimulatedBoard(), "bad": SimulatedBoard()}
    boards["bad"].faults.wrong_answer(0.5)
    monkeypatch.setattr("pipeline.cli.on_devices.open_device", simulated(boards))
    found = pushed(capsys, str(net), "--device", "good", "--device", "bad", "--activate", code=4)
    assert [each["ok"] for each in found["devices"]] == [True, False]
    assert "differs from the golden output" in found["devices"][1]["error"]["message"]
    assert boards["good"].updates.current == found["bundle"]["digest"]
    assert boards["bad"].updates.current is None


@pytest.mark.parametrize("healthy", [True, False])
def test_the_others_wait_for_the_canary(healthy: bool, shelf: Shelf, net: Path, monkeypatch, capsys) -> None:
    names = shelf.add("canary", "two", "three")
    boards = {name: SimulatedBoard(application_confirms_after_s=0.001) for name in names}
    if not healthy:
        boards["canary"].faults.cut_power(method="bundle.activate", served=True)
    monkeypatch.setattr("pipeline.cli.on_devices.open_device", simulated(boards))
    given = ["--device", "canary", "--device", "two", "--device", "three", "--canary", "1"]
    found = pushed(capsys, str(net), *given, "--activate", code=0 if healthy else 4)
    active = {name: board.updates.current is not None for name, board in boards.items()}
    assert active == dict.fromkeys(names, healthy)
    if not healthy:
        assert [each["tried"] for each in found["devices"]] == [True, False, False]
        assert "the canary 'canary' failed" in found["devices"][1]["error"]["message"]
        assert all(board.updates.bundle is None for name, board in boards.items() if name != "canary")


def test_the_applications_word_is_waited_for(shelf: Shelf, net: Path, monkeypatch, capsys) -> None:
    """The device takes the model back by itself: what a real agent does is real here."""
    shelf.add("one")
    given = ["--device", "one", "--activate", "--confirm-within", "0.3"]
    found = pushed(capsys, str(net), *given, code=4)
    assert "went back to no model" in found["devices"][0]["error"]["message"]
    assert "did not confirm within 0.3 s" in found["devices"][0]["error"]["message"]
    assert asked("one").update.current is None


def test_ones_own_key_signs(shelf: Shelf, net: Path, capsys) -> None:
    shelf.add("one")
    key = new_key(default_key_file())
    assert pushed(capsys, str(net), "--device", "one")["bundle"]["signed_by"] == [key.public.id]


def test_a_device_that_trusts_others_refuses(shelf: Shelf, net: Path, tmp_path, monkeypatch, capsys) -> None:
    shelf.add("strict")
    trusted = new_key(tmp_path / "other.pem").public
    monkeypatch.setattr(
        "pipeline.cli.on_devices.open_device", simulated({"strict": SimulatedBoard(keys=[trusted])})
    )
    error = pushed(capsys, str(net), "--device", "strict", code=4)["devices"][0]["error"]
    assert error["code"] == "untrusted"
    assert "pipeline key new" in error["hint"]


def test_devices_that_all_cannot_be_asked_are_told_and_nothing_is_built(
    shelf: Shelf, net: Path, capsys
) -> None:
    shelf.add_dead("dead")
    found = pushed(capsys, str(net), "--device", "dead", code=4)
    assert found["bundle"] is None
    assert not found["devices"][0]["ok"]


def test_profiles_that_do_not_agree_on_threads_are_named(shelf: Shelf, net: Path, capsys) -> None:
    other = write_profile(shelf.profile.with_name("other.toml"))
    other.write_text(other.read_text().replace("threads = 1", "threads = 2"))
    shelf.add("one")
    shelf.add("two", profile=other)
    assert run_command(["push", str(net), "--device", "one", "--device", "two"]) == 2
    assert "one: 1, two: 2" in capsys.readouterr().err
    assert pushed(capsys, str(net), "--device", "one", "--device", "two", "--threads", "1")["ok"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "neither a folder nor a run"),
        (["latest"], "neither a folder nor a run"),
        (["missing.onnx"], "no such file"),
        (["{folder}"], "manifest.json"),
        (["{net}", "--confirm-within", "5"], "--confirm-within is about activating"),
        (["{net}", "--runtime", "tflite"], "is run by onnxruntime"),
        (["{net}", "--canary", "0"], "--canary"),
    ],
)
def test_bad_input_is_found_before_any_device_is_touched(
    arguments: list[str], words: str, shelf: Shelf, net: Path, monkeypatch, capsys
) -> None:
    def touched(*_: object) -> None:
        raise AssertionError("a device was touched")

    shelf.add("one")
    monkeypatch.setattr("pipeline.cli.on_devices.open_device", touched)
    given = [each.format(net=net, folder=net.parent) for each in arguments]
    assert run_command(["push", *given, "--device", "one"]) == 2
    assert words in capsys.readouterr().err
