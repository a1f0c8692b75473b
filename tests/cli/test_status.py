"""`pipeline status`: a line a device, quickly, whatever state the others are in."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from device import Cooling, Hardware, SimulatedBoard
from named_devices import Boards, Shelf, simulated

from pipeline.cli.main import run_command

ROOT = Path(__file__).resolve().parents[2]


def lines(capsys, *arguments: str, code: int = 0) -> dict[str, str]:
    assert run_command(["status", *arguments]) == code
    shown = capsys.readouterr().out.splitlines()
    return {line.split()[0]: line for line in shown}


def test_all_known_devices_are_shown_and_the_dead_one_is_named(shelf: Shelf, capsys) -> None:
    shelf.add("one", "two")
    shelf.add_dead("dead")
    found = lines(capsys, code=4)
    assert {"device", "local", "one", "two", "dead"} <= set(found)
    assert found["dead"].endswith("unreachable")
    assert "GB" in found["one"]
    assert "none" in found["one"]


def test_devices_may_be_named_or_fit_a_pattern(shelf: Shelf, capsys) -> None:
    shelf.add("shelf-1", "shelf-2", "bench")
    assert set(lines(capsys, "--device", "shelf-*")) == {"device", "shelf-1", "shelf-2"}
    assert set(lines(capsys, "--device", "bench", "--device", "*-2")) == {"device", "bench", "shelf-2"}


def test_json_has_all_that_a_device_says(shelf: Shelf, net: Path, capsys) -> None:
    shelf.add("one")
    shelf.add_dead("dead")
    assert run_command(["push", str(net), "--device", "one", "--activate", "--quiet"]) == 0
    assert run_command(["status", "--device", "one", "--device", "dead", "--json"]) == 4
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    one, dead = found["devices"]
    assert one["result"]["active"]["name"] == "net"
    assert one["result"]["update"]["state"] == "committed"
    assert one["result"]["board"]["cores"] >= 1
    assert dead["error"]["message"]


def test_what_somebody_should_look_at_is_loud(shelf: Shelf, tmp_path, monkeypatch, capsys) -> None:
    made = Boards(shelf, tmp_path, ("staged", "open", "bad", "hot"))
    made.all["hot"] = SimulatedBoard(Hardware(cooling=Cooling(ambient_c=90.0), disk_bytes=10_000_000))
    digest = made.stage("net", "staged")
    made.stage("net", "open", "bad")
    for name in ("open", "bad"):
        made[name].updates.activate(digest)
    made["bad"].updates.commit(digest)
    made["bad"].updates.mark_bad(digest, "crashes")
    monkeypatch.setattr("pipeline.cli.on_devices.open_device", simulated(made.all))
    found = lines(capsys, "--device", "staged", "--device", "open", "--device", "bad", "--device", "hot")
    assert f"checked {digest[:12]}" in found["staged"]
    assert "activated, not committed" in found["open"]
    assert "the active model is marked bad" in found["bad"]
    assert f"net {digest[:12]}" in found["bad"]
    assert "90 °C" in found["hot"]
    assert "THROTTLED, little disk" in found["hot"]


def test_one_that_hangs_keeps_nobody_waiting(shelf: Shelf, monkeypatch, capsys) -> None:
    names = shelf.add("quick", "hangs")
    release, boards = threading.Event(), {name: SimulatedBoard() for name in names}

    def connect(name: str, notice: object = None) -> Any:
        if name == "hangs":
            release.wait(30)
        return simulated(boards)(name)

    monkeypatch.setattr("pipeline.cli.on_devices.open_device", connect)
    start = time.monotonic()
    found = lines(capsys, "--device", "quick", "--device", "hangs", "--timeout", "0.3", code=4)
    release.set()
    assert time.monotonic() - start < 5
    assert found["hangs"].endswith("unreachable")
    assert "Simulated Board" in found["quick"]


def test_a_name_that_steers_the_terminal_is_shown_as_text(
    shelf: Shelf, tmp_path, monkeypatch, capsys
) -> None:
    made = Boards(shelf, tmp_path, ("one",))
    digest = made.stage("\x1b[2Jnet")
    made["one"].updates.activate(digest)
    monkeypatch.setattr("pipeline.cli.on_devices.open_device", simulated(made.all))
    assert run_command(["status", "--device", "one"]) == 0
    text = capsys.readouterr().out
    assert "\x1b" not in text
    assert "net" in text


@pytest.mark.parametrize("command", ["status", "measure", "push", "activate", "rollback"])
def test_no_command_loads_torch_to_work_on_devices(command: str, shelf: Shelf, net: Path) -> None:
    shelf.add_dead("dead")
    arguments = {"measure": [str(net)], "push": [str(net)], "activate": ["a" * 64]}.get(command, [])
    code = (
        "import sys; from pipeline.cli.main import run_command\n"
        f"print(run_command({[command, *arguments, '--device', 'dead']!r}))\n"
        "print([m for m in ('torch', 'matplotlib', 'scipy', 'jinja2') if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert answer.stdout.splitlines()[-2:] == ["4", "[]"]
