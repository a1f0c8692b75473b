"""A real daemon that is killed while a host updates its model again and again, and is then looked at."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path
from typing import Any

from daemon_process import Daemon, until
from update_invariants import SETTLED, spoiled_files

from device_agent.active import active_model
from device_agent.errors import RequestError
from device_agent.serve.client import Client
from device_agent.updates import journal

LONGEST_S = {"stage": 0.02, "check": 1.5, "activate": 0.01, "commit": 0.02, "back": 0.02}


class Host(threading.Thread):
    """Updates the model in a loop until the daemon is gone, and knows which one may be current at any moment.

    Args:
        daemon: to be told.
        bundles: digests of bundles that are on the board.
        current: the bundle that is active to begin with.
        dice: chooses what to do.
    """

    def __init__(self, daemon: Daemon, bundles: list[str], current: str, dice: random.Random) -> None:
        super().__init__(daemon=True)
        self.may_be = {current}
        self.wrong: list[str] = []
        self.phase = threading.Condition()
        self.doing = ""
        self._daemon = daemon
        self._bundles = bundles
        self._dice = dice

    def run(self) -> None:
        """Update until the connection breaks."""
        try:
            with self._daemon.client() as client:
                while True:
                    self._update(client)
        except RequestError as error:
            if error.code not in ("bad_frame", "no_agent"):
                self.wrong.append(f"{self.doing} was refused: {error.code}: {error}")

    def until_doing(self, phase: str, seconds: float = 60.0) -> None:
        """Wait until an act begins."""
        with self.phase:
            begun = self.phase.wait_for(lambda: self.doing == phase or not self.is_alive(), seconds)
        assert begun, f"the host never came to {phase}"

    def _update(self, client: Client) -> None:
        (current,) = self.may_be
        bundle = self._dice.choice([each for each in self._bundles if each != current])
        self._ask(client, "stage", "bundle.stage", manifest_sha256=bundle)
        if not self._ask(client, "check", "bundle.check", bundle=bundle)["ok"]:
            raise RequestError("bad", "the check failed")
        self._ask(client, "activate", "bundle.activate", bundle=bundle)
        if self._dice.random() < 0.5:
            self._ask(client, "back", "bundle.rollback")
            return
        self.may_be = {current, bundle}
        self._ask(client, "commit", "bundle.commit", bundle=bundle)
        self.may_be = {bundle}
        if self._dice.random() < 0.5:
            self.may_be = {current, bundle}
            self.may_be = {self._ask(client, "back", "bundle.rollback", to_previous=True)["current"]}

    def _ask(self, client: Client, phase: str, method: str, **params: Any) -> dict[str, Any]:
        with self.phase:
            self.doing = phase
            self.phase.notify_all()
        return client.ask(method, params)


def kill_once(
    daemon: Daemon, bundles: list[str], dice: random.Random, phase: str, restarts: int = 0
) -> list[str]:
    """Kill the daemon at a random moment of an update, and some more of them while they start; start it, look at it.

    Args:
        daemon: has one of the bundles as its committed model.
        bundles: digests of those that the host deploys in turn.
        dice: for everything that is left to chance.
        phase: which of `LONGEST_S` the daemon is killed in.
        restarts: how many of those that come after it are killed, too.

    Returns:
        What is wrong with the one that is let live.
    """
    model = active_model(daemon.state)
    assert model is not None
    host = Host(daemon, bundles, model.bundle, dice)
    host.start()
    host.until_doing(phase)
    time.sleep(dice.uniform(0, LONGEST_S[phase]))
    daemon.stop(9)
    host.join(timeout=30)
    for _ in range(restarts):
        daemon.start(wait=False)
        time.sleep(dice.uniform(0, 0.3))
        daemon.stop(9)
    return [f"killed in {phase}: {text}" for text in host.wrong + looked_at(daemon, host.may_be)]


def looked_at(daemon: Daemon, may_be: set[str]) -> list[str]:
    """Return what is wrong for the application, then start the daemon and return what it has to say."""
    seen = active_model(daemon.state)
    wrong = [] if seen is not None and not spoiled_files(seen.folder) else [f"the application finds {seen}"]
    daemon.start()
    update = daemon.ask("status")["update"]
    if update["current"] not in may_be:
        wrong.append(f"{update['current']} is current, not one of {may_be}")
    if update["state"] not in SETTLED or update["fault"] is not None:
        wrong.append(f"not settled: {update}")
    model = active_model(daemon.state)
    if model is None or model.bundle != update["current"] or spoiled_files(model.folder):
        wrong.append(f"status and files differ: {update}, {model}")
    wrong += [
        f"left over: {path}" for path in (*daemon.state.glob("*.new"), *daemon.state.glob("bundles/.*"))
    ]
    for bundle in update["bad"]:  # three kills in its checks
        daemon.ask("bundle.forgive", bundle=bundle)
    return wrong


def kill_in_check(daemon: Daemon, bundle: str) -> None:
    """Kill the daemon in the middle of a bundle's check, and start it again."""

    def check() -> None:
        try:
            daemon.ask("bundle.check", bundle=bundle)
        except RequestError:
            return

    thread = threading.Thread(target=check, daemon=True)
    thread.start()
    until(lambda: journal.read(daemon.state).state == "checking", "the check began")
    daemon.stop(9)
    thread.join(timeout=30)
    daemon.start()


def no_clock(folder: Path) -> Path:
    """Return a folder for PYTHONPATH that has every Python's clock begin in 1970 and go backwards."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        "import time\nticks = iter(range(10**7, 0, -60))\ntime.time = lambda: float(next(ticks, 0))\n"
    )
    return folder
