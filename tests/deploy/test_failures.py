"""Things that break on the way: the agent dies, the disk fills up, the user stops it at any step."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest


def _agents(parent: int) -> list[int]:
    """Return the process ids of the agents that `parent` started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
        except OSError:
            continue
        if int(fields[1]) == parent and b"device_agent" in command:
            found.append(int(stat.parent.name))
    return found


def _wait_for(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if words in line:
            return
    pytest.fail(f"ended before {words!r}: {process.stderr.read() if process.stderr else ''}")


def test_an_agent_killed_while_it_measures_is_exit_code_4_and_the_run_can_go_on(deployed, home_like) -> None:
    home = home_like("killed-agent")
    home.profile.write_text(home.profile.read_text().replace("min_duration_s = 0.5", "min_duration_s = 30.0"))
    target = home.folder / "failed.json"
    process = home.start_deploy("--json", str(target))
    _wait_for(process, "baseline: convert")
    time.sleep(1.5)
    for agent in _agents(process.pid):
        os.kill(agent, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 4, errors
    assert "Traceback" not in errors
    assert "--resume" in errors
    assert not (home.agent_state / "active").exists()
    assert json.loads(target.read_text())["status"] == "failed"


@pytest.mark.parametrize("kilobytes", [4, 64, 300])
def test_a_disk_that_fills_up_is_one_clear_line(deployed, home_like, kilobytes: int) -> None:
    home = home_like("full")
    limit = kilobytes * 1024

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    process = subprocess.run(
        home.deploy(),
        env=home.environment,
        cwd=home.folder,
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=small_disk,
        check=False,
    )
    assert process.returncode in {2, 4}, process.stdout + process.stderr
    assert "Traceback" not in process.stderr
    assert "error:" in process.stderr
    assert not (home.agent_state / "active").exists()


def test_ctrl_c_at_any_step_is_130_and_the_run_goes_on_each_time(deployed, home_like) -> None:
    home = home_like("stopped")
    process = home.start_deploy()
    for step in ("baseline: train", "baseline: convert", "latency table", "fit 1: refine", "fit 1: measure"):
        _wait_for(process, step)
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, (step, errors)
        assert "Traceback" not in errors, step
        assert "--resume" in errors, step
        assert not (home.agent_state / "active").exists(), step
        process = home.start_resumed()
    said, errors = process.communicate(timeout=280)
    assert process.returncode == 0, said + errors
