"""Killed at any moment and resumed: the same model, no finished step done twice, nothing half-active."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

KILLS = int(os.environ.get("PIPELINE_TEST_KILLS", "3"))


def _runs(home) -> list[str]:
    listed = json.loads(home.run("run", "list", "--json").stdout)
    return [line["run"] for line in listed]


def _kill_after(command: list[str], home, seconds: float) -> int:
    """Start a command in a session of its own, kill all of it after a while; return its exit code."""
    process = subprocess.Popen(
        command,
        env=home.environment,
        cwd=home.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def _active(home) -> Path | None:
    link = home.agent_state / "active"
    return (link / "current").resolve() if link.is_symlink() else None


@pytest.mark.slow
def test_killed_at_random_moments_a_replayed_run_ends_with_the_same_model(deployed, home_like) -> None:
    home = home_like("killed")
    source = deployed.result["run"]
    known = set(_runs(home))
    start = time.monotonic()
    whole = home_like("whole")
    assert whole.run_deploy("--replay", source).returncode == 0
    duration = time.monotonic() - start
    moments = random.Random(7)
    killed = 0
    while killed < KILLS:
        begun = [run for run in _runs(home) if run not in known]
        command = home.command("deploy", "--resume", begun[0]) if begun else home.deploy("--replay", source)
        if _kill_after(command, home, moments.uniform(0.35, 0.95) * duration) == 0:
            break
        killed += 1
        if (active := _active(home)) is not None:
            assert (active / "manifest.json").exists()
    begun = [run for run in _runs(home) if run not in known]
    assert killed > 0
    target = home.folder / "end.json"
    arguments = ("deploy", "--resume", begun[0]) if begun else ("deploy", "--replay", source)
    process = (
        home.run(*arguments, "--json", str(target))
        if begun
        else home.run_deploy("--replay", source, "--json", str(target))
    )
    assert process.returncode == 0, process.stdout + process.stderr
    result = json.loads(target.read_text())
    digests = [each["measurement"]["file_sha256"] for each in result["candidates"]]
    assert digests == [each["measurement"]["file_sha256"] for each in deployed.result["candidates"]]
    names = [step["name"] for step in result["steps"]]
    assert len(names) == len(set(names))
    active = _active(home)
    assert active is not None
    assert active.name == result["bundle"]["digest"]


@pytest.mark.slow
def test_killed_while_the_device_measures_the_run_goes_on(fresh_home) -> None:
    home = fresh_home
    assert home.run_deploy("--epochs", "1", "--max-drop", "60").returncode in {0, 3}
    runs = len(_runs(home))
    _kill_after(home.deploy("--epochs", "1", "--max-drop", "60"), home, 9.0)
    begun = _runs(home)
    resumed = (
        home.run("deploy", "--resume", "latest") if len(begun) > runs else home.run_deploy("--epochs", "1")
    )
    assert resumed.returncode in {0, 3}, resumed.stderr
    status = json.loads(home.run("device", "status", "local").stdout)
    assert status["update"]["current"] is not None


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(fresh_home) -> None:
    home = fresh_home
    process = subprocess.Popen(
        home.deploy(),
        env=home.environment,
        cwd=home.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    while "run " not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors
    assert "Traceback" not in errors
