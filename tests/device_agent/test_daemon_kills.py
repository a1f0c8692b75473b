"""Real daemons, killed while a host updates the model; the next one carries on by itself."""

from __future__ import annotations

import os
import random

import pytest
from daemon_kills import kill_in_check, kill_once, no_clock
from daemon_process import PACKAGE, Daemon, deploy, send_bundle
from update_board import Board, Bundle


class ThisAgent(Bundle):
    """The agent under test as a bundle."""

    @property
    def files(self):
        return {
            str(path.relative_to(PACKAGE)): path.read_bytes()
            for path in (PACKAGE / "device_agent").rglob("*.py")
        }


@pytest.fixture
def daemon(tmp_path):
    made = Daemon(tmp_path, PYTHONPATH=f"{no_clock(tmp_path / 'clock')}{os.pathsep}{PACKAGE}")
    yield made.start()
    made.stop(9)


def test_killed_at_random_moments_of_updates_with_a_clock_that_goes_backwards(daemon):
    dice = random.Random(5)
    bundles = [send_bundle(daemon, name=name) for name in ("one", "two", "three")]
    deploy(daemon, bundles[0])
    for phase, restarts in (("check", 0), ("activate", 0), ("commit", 0), ("activate", 3)):
        assert kill_once(daemon, bundles, dice, phase, restarts) == []


def test_a_model_that_takes_the_board_down_three_times_is_never_tried_again(daemon):
    bundle = send_bundle(daemon, name="deadly")
    daemon.ask("bundle.stage", manifest_sha256=bundle)
    for count in range(3):
        assert bundle not in daemon.ask("status")["update"]["bad"], count
        kill_in_check(daemon, bundle)
    assert bundle in daemon.ask("status")["update"]["bad"]
    assert daemon.error("bundle.stage", manifest_sha256=bundle) == "bundle_bad"


def test_an_agent_that_runs_from_its_bundle_writes_nothing_there(tmp_path):
    """Compiled files that a power cut tears would keep it from ever starting again, whatever its journal says."""
    daemon = Daemon(tmp_path, command="launch", PYTHONDONTWRITEBYTECODE="")
    daemon.state.mkdir()
    Board(daemon.state, "agent", recover=True).deploy(ThisAgent("this", 1, "agent"))
    (bundle,) = (daemon.state / "agent" / "bundles").iterdir()
    before = sorted(bundle.rglob("*"))
    daemon.start()
    assert daemon.ask("status")["agent_update"]["current"] == bundle.name
    daemon.stop()
    assert sorted(bundle.rglob("*")) == before
