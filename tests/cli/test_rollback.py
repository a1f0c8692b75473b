"""`pipeline rollback`: the model before is active again, on every device that is meant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from named_devices import Boards, Shelf, simulated

from pipeline.cli.main import run_command
from pipeline.device.registry import open_device


@pytest.fixture
def boards(shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Boards:
    made = Boards(shelf, tmp_path, ("a", "b", "c"))
    monkeypatch.setattr("pipeline.cli.on_devices.open_device", simulated(made.all))
    return made


def rolled_back(capsys, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    assert run_command(["rollback", *arguments, "--device", "?", "--json"]) == code
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)["devices"]
    return found


def test_all_go_back_to_the_model_before(boards: Boards, capsys) -> None:
    first, second = boards.active("one"), boards.active("two")
    found = rolled_back(capsys)
    assert {(each["result"]["was"], each["result"]["now"]) for each in found} == {(second, first)}
    assert boards.current() == dict.fromkeys("abc", first)


def test_one_without_a_model_before_stops_no_other(boards: Boards, capsys) -> None:
    first = boards.active("one", "a", "c")
    boards.active("two", "a", "b", "c")
    found = rolled_back(capsys, code=4)
    assert [each["ok"] for each in found] == [True, False, True]
    assert "no model before" in found[1]["error"]["message"]
    assert (boards.current()["a"], boards.current()["c"]) == (first, first)


def test_with_from_a_second_call_leaves_those_alone_that_went_back(boards: Boards, capsys) -> None:
    """Without it, repeating the command for the one that failed would bring the bad model back everywhere else."""
    first, bad = boards.active("one"), boards.active("bad")
    boards["b"].faults.break_link(method="bundle.rollback")
    assert [each["ok"] for each in rolled_back(capsys, "--from", bad[:8], code=4)] == [True, False, True]
    found = rolled_back(capsys, "--from", bad[:8])
    assert [each["result"]["left_alone"] for each in found] == [True, False, True]
    assert boards.current() == dict.fromkeys("abc", first)


def test_pending_lets_go_of_what_is_staged_only(boards: Boards, capsys) -> None:
    boards.active("one")
    second, staged = boards.active("two"), boards.stage("three")
    found = rolled_back(capsys, "--pending")
    assert {each["result"]["let_go"] for each in found} == {staged}
    assert boards.current() == dict.fromkeys("abc", second)


def test_the_table_says_what_happened(boards: Boards, capsys) -> None:
    first, second = boards.active("one"), boards.active("two")
    assert run_command(["rollback", "--device", "a", "--device", "b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["a", second[:12], first[:12], "went", "back"]
    assert run_command(["rollback", "--device", "a", "--pending"]) == 0
    assert "nothing to undo" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["abc", "latest", "x" * 64, "a" * 65])
def test_what_is_no_digest_is_refused(text: str, boards: Boards, capsys) -> None:
    assert run_command(["rollback", "--device", "?", "--from", text]) == 2
    assert "is no digest" in capsys.readouterr().err


def test_a_real_device_goes_back(shelf: Shelf, net: Path, capsys) -> None:
    from agent_process import onnx_model

    shelf.add("one")
    digests = []
    for width in (8, 16):
        net.write_bytes(onnx_model(width))
        assert run_command(["push", str(net), "--device", "one", "--activate", "--json"]) == 0
        digests.append(json.loads(capsys.readouterr().out)["bundle"]["digest"])
    assert run_command(["rollback", "--device", "one"]) == 0
    with open_device("one") as device:
        update = device.status().update
    assert (update.current, update.previous, update.state) == (*digests, "committed")
