"""The face of the command line: help with examples, exit codes, devices."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import __version__
from pipeline.cli.main import run_command
from pipeline.store import Store


@pytest.fixture(autouse=True)
def _own_home(tmp_path, monkeypatch) -> None:
    for name in ("XDG_STATE_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))


@pytest.mark.parametrize("command", [[], ["deploy"], ["run"], ["device"]])
def test_help_shows_examples(command, capsys) -> None:
    assert run_command([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Examples:" in text
    assert "pipeline " in text


def test_help_names_every_exit_code(capsys) -> None:
    run_command(["--help"])
    text = capsys.readouterr().out
    for code in ("0 ", "2 ", "3 ", "4 ", "130 "):
        assert code in text


def test_version(capsys) -> None:
    assert run_command(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_no_runs_yet_says_how_to_begin(capsys) -> None:
    assert run_command(["run", "list"]) == 0
    assert "pipeline deploy" in capsys.readouterr().out


def test_square_brackets_in_what_a_run_says_are_shown(capsys) -> None:
    run = Store().create({"task": {"name": "net [v2]"}, "device": "local"})
    run.finish("infeasible", "train longer in the task's [recover]", None)
    run.close()
    assert run_command(["run", "list"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "net [v2]" in text
    assert "[recover]" in text


def test_an_unknown_run_is_exit_code_2(capsys) -> None:
    assert run_command(["run", "show", "nope"]) == 2
    assert "nope" in capsys.readouterr().err


def test_the_local_device_is_known_without_any_configuration(capsys) -> None:
    assert run_command(["device", "list", "--json"]) == 0
    (entry,) = json.loads(capsys.readouterr().out)
    where = entry.pop("where")
    assert entry == {"device": "local", "transport": "local", "profile": "local"}
    assert where == "this computer"


def test_the_local_device_answers_with_its_facts(capsys) -> None:
    assert run_command(["device", "status", "local"]) == 0
    status = json.loads(capsys.readouterr().out)
    assert status["board"]["cores"] >= 1
    assert "onnxruntime" in {runtime["name"] for runtime in status["runtimes"]}
    assert status["update"]["current"] is None


def test_what_cannot_be_changed_on_resume_is_refused(capsys) -> None:
    assert run_command(["deploy", "--resume", "latest", "--budget", "latency=10ms"]) == 2
    assert "--budget" in capsys.readouterr().err


def test_ctrl_c_amid_an_import_ends_python_m_with_130_too(tmp_path: Path) -> None:
    (tmp_path / "interrupted.py").write_text(
        "from pipeline.cli import main\n"
        "main.cli.main = lambda *_, **__: exec('raise KeyboardInterrupt')\n"
        "main.main()\n"
    )
    command = [sys.executable, "-m", "interrupted"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (130, "interrupted\n")
