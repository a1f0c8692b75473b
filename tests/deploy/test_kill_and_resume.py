"""Killed at any moment and resumed: the same model, no finished step done twice, nothing half-active."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

KILLS = int(os.environ.get("PIPELINE_TEST_KILLS", "3"))
_START_S = 3.0  # about, until the first step
_ON_DEVICE = {"measure", "measure again", "latency table"}  # what a replay does not wait for


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


def _check_same_model(deployed, home, result: dict[str, Any]) -> None:
    """The same files bit for bit as the undisturbed run, no step done twice, the whole new bundle active."""
    digests = [each["measurement"]["file_sha256"] for each in result["candidates"]]
    assert digests == [each["measurement"]["file_sha256"] for each in deployed.result["candidates"]]
    names = [step["name"] for step in result["steps"]]
    assert len(names) == len(set(names))
    active = _active(home)
    assert active is not None
    assert active.name == result["bundle"]["digest"]


@pytest.mark.slow
def test_killed_at_random_moments_a_replayed_run_ends_with_the_same_model(deployed, home_like) -> None:
    home = home_like("killed")
    source = deployed.result["run"]
    target = home.folder / "end.json"
    whole_s = _START_S + sum(
        step["seconds"] for step in deployed.result["steps"] if not _ON_DEVICE & set(step["name"].split(": "))
    )
    moments = random.Random(7)
    resumed, kills = False, 0
    while kills < KILLS or resumed:
        chosen = ("deploy", "--resume", "latest") if resumed else home.deploy_arguments("--replay", source)
        command = home.command(*chosen, "--json", str(target))
        patience = moments.uniform(0.3, 1.0) * whole_s if kills < KILLS else 200.0
        code = _kill_after(command, home, patience)
        if code == 0:
            _check_same_model(deployed, home, json.loads(target.read_text()))
            resumed = False
            continue
        assert code == -signal.SIGKILL
        kills += 1
        resumed = _runs(home)[0] != source
        active = _active(home)
        assert active is None or (active / "manifest.json").exists()


@pytest.mark.slow
def test_killed_while_the_device_measures_what_runs_there_stays_and_the_run_goes_on(
    deployed, home_like
) -> None:
    home = home_like("measuring", device_too=True)
    before = _active(home)
    process = home.start_deploy("--budget", "latency=100000ms")
    assert process.stdout is not None
    while "baseline: convert" not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(1.0)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert _active(home) == before
    resumed = home.run("deploy", "--resume", "latest")
    assert resumed.returncode == 0, resumed.stderr
    status = json.loads(home.run("device", "status", "local").stdout)
    assert status["update"]["current"] is not None
    assert _active(home) not in (None, before)


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(fresh_home) -> None:
    process = fresh_home.start_deploy()
    assert process.stdout is not None
    while "run " not in process.stdout.readline():
        assert process.poll() is None
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in errors
    assert "Traceback" not in errors
