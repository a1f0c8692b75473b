"""`pipeline activate`: which bundle is meant, and whether every device really runs it."""

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


def activated(capsys, *arguments: str, code: int = 0) -> dict[str, Any]:
    assert run_command(["activate", *arguments, "--device", "?", "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_one_that_is_staged_is_meant(boards: Boards, capsys) -> None:
    digest = boards.stage("net")
    found = activated(capsys)
    assert (found["bundle"], found["ok"]) == (digest, True)
    assert boards.current() == dict.fromkeys("abc", digest)
    assert {board.updates.state for board in boards.all.values()} == {"committed"}


@pytest.mark.parametrize("digits", [4, 12, 64])
def test_the_first_digits_say_which(digits: int, boards: Boards, capsys) -> None:
    digest = boards.stage("net", "a", "b")
    boards.stage("other", "c")
    found = activated(capsys, digest[:digits].upper(), code=4)
    assert boards.current() == {"a": digest, "b": digest, "c": None}
    assert found["devices"][2]["error"]["code"] == "not_checked"
    assert "pipeline push" in found["devices"][2]["error"]["hint"]


def test_different_bundles_must_be_told_apart(boards: Boards, capsys) -> None:
    first, second = boards.stage("net", "a", "b"), boards.stage("other", "c")
    assert run_command(["activate", "--device", "?"]) == 2
    text = capsys.readouterr().err
    assert f"a: {first[:12]}" in text
    assert f"c: {second[:12]}" in text
    assert boards.current() == dict.fromkeys("abc")


def test_nothing_staged_is_bad_input(boards: Boards, capsys) -> None:
    assert run_command(["activate", "--device", "?"]) == 2
    assert "nothing is staged on a, b, c" in capsys.readouterr().err
    assert run_command(["activate", "abcd1234", "--device", "?"]) == 2
    assert "no bundle abcd1234… is staged or active" in capsys.readouterr().err


def test_a_second_call_changes_nothing(boards: Boards, capsys) -> None:
    digest = boards.stage("net")
    activated(capsys)
    found = activated(capsys, digest[:8])
    assert [each["result"]["already"] for each in found["devices"]] == [True] * 3
    assert {board.updates.active.number for board in boards.all.values()} == {1}


def test_a_call_that_failed_halfway_is_repeated(boards: Boards, capsys) -> None:
    """One board loses its link after it switched: it is ended there, and left alone elsewhere."""
    digest = boards.stage("net")
    boards["b"].faults.break_link(method="bundle.activate", served=True)
    found = activated(capsys, code=4)
    assert [each["ok"] for each in found["devices"]] == [True, False, True]
    assert boards["b"].updates.state == "activated"
    found = activated(capsys)
    assert [each["result"]["already"] for each in found["devices"]] == [True, False, True]
    assert boards.current() == dict.fromkeys("abc", digest)
    assert boards["b"].updates.state == "committed"


def test_a_canary_that_does_not_commit_keeps_the_others_as_they_are(boards: Boards, capsys) -> None:
    before = boards.active("old")
    boards.stage("net", sequence=1)
    boards["a"].faults.cut_power(method="bundle.commit")
    found = activated(capsys, "--canary", "1", code=4)
    assert [each["tried"] for each in found["devices"]] == [True, False, False]
    assert boards.current() == dict.fromkeys("abc", before)


def test_a_canary_that_is_healthy_lets_the_others_follow(boards: Boards, capsys) -> None:
    digest = boards.stage("net")
    assert activated(capsys, "--canary", "1")["ok"]
    assert boards.current() == dict.fromkeys("abc", digest)


def test_the_table_tells_who_failed(boards: Boards, capsys) -> None:
    boards.stage("net")
    boards["b"].faults.break_link(method="bundle.commit")
    assert run_command(["activate", "--device", "?"]) == 4
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:4]] == ["device", "a", "b", "c"]
    assert lines[1].split()[-1] == "active"
    assert lines[2].split()[-1] == "failed"
    assert lines[4].startswith("✗ b: ")


def test_a_real_device_switches_and_keeps_the_model_when_its_agent_ends(
    shelf: Shelf, net: Path, capsys
) -> None:
    shelf.add("one")
    shelf.add_dead("dead")
    assert run_command(["push", str(net), "--device", "one"]) == 0
    capsys.readouterr()
    assert run_command(["activate", "--device", "one", "--device", "dead", "--json"]) == 4
    found = json.loads(capsys.readouterr().out)
    assert [each["ok"] for each in found["devices"]] == [True, False]
    with open_device("one") as device:
        update = device.status().update
    assert (update.current, update.state) == (found["bundle"], "committed")


def test_devices_that_all_cannot_be_asked_are_failures(shelf: Shelf, capsys) -> None:
    shelf.add_dead("dead")
    assert run_command(["activate", "--device", "dead"]) == 4
    assert "✗ dead" in capsys.readouterr().out
