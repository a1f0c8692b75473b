"""The simulator's update and disk beside the agent's own: the same requests at random, the same outcome each time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from disk import Disk
from small_bundles import bundle_files, sha256
from updates import Updates

from device_agent.errors import RequestError
from device_agent.updates.store import RESERVE_BYTES, FileStore
from device_agent.updates.update import Updater

STEPS = 150
MTIME_S = 0.011  # by so much a file system may tell times apart


def outcome(act: Callable[[Any], Any], of: Any) -> Any:
    """Return what an act returns, or the code of its error."""
    try:
        return act(of)
    except RequestError as error:
        return error.code


# --- updates ------------------------------------------------------------------------------------------------------


BUNDLES = [bundle_files(f"bundle {number}", sequence) for number, sequence in enumerate((0, 1, 2, 2, 3, 9))]
BUNDLES.append(bundle_files("of another size", 9, size_off_by=1))
DIGESTS = [list(files)[-1] for files in BUNDLES]


class Twins:
    """The agent's update and the simulator's, with the same files sent to both."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.store, self.disk = FileStore(folder), Disk(10**12)
        self.real = Updater(folder, self.store)
        self.simulated = Updates(self.disk)

    def send(self, files: dict[str, bytes]) -> None:
        for digest, data in files.items():
            for keeper in (self.store, self.disk):
                keeper.put(digest, len(data), 0, data)

    def restart(self) -> None:
        self.real = Updater(self._folder, self.store)
        self.simulated.recover()

    def both(self, act: Callable[[Any], Any]) -> tuple[Any, Any]:
        return outcome(act, self.real), outcome(act, self.simulated)

    def seen(self) -> tuple[Any, Any]:
        """Return what each says of itself; of sentences, only how they begin."""
        statuses = self.real.status()._asdict(), self.simulated.describe()
        uses = self.real.files_in_use(), self.simulated.files_in_use()
        real, simulated = (
            {**status, "bad": set(status["bad"]), "last": status["last"].partition(":")[0], "uses": used}
            for status, used in zip(statuses, uses, strict=True)
        )
        return real, simulated


ACTS = {
    "stage": 4,
    "check": 4,
    "activate": 3,
    "commit": 3,
    "crash": 3,
    "begin to check": 1,
    "roll back": 3,
    "expire": 2,
    "mark bad": 2,
    "forgive": 3,
}
ON_THE_WAY = {"staged": "check", "checked": "activate", "activated": "commit"}


def random_act(choose: random.Random, state: str, digest: str) -> tuple[str, Callable[[Any], Any]]:
    """Return the name of something to ask of an update, mostly what is next on a bundle's way, and the act."""
    flag, good, generation = choose.random() < 0.5, choose.random() < 0.9, choose.randrange(1, 9)
    by_chance = choose.choices(list(ACTS), list(ACTS.values()))[0]
    name = by_chance if choose.random() < 0.4 else ON_THE_WAY.get(state, "stage")

    def check(update: Any) -> None:
        update.begin_check(digest)
        update.end_check(digest, ok=good)

    def crash(update: Any) -> None:
        update.begin_check(digest)
        update.fail_check(digest, "it died")

    acts: dict[str, Callable[[Any], Any]] = {
        "stage": lambda update: update.stage(digest, allow_downgrade=flag) and None,
        "check": check,
        "activate": lambda update: update.activate(digest, confirm=flag),
        "commit": lambda update: update.commit(digest, confirmed=flag),
        "crash": crash,
        "begin to check": lambda update: update.begin_check(digest) and None,
        "roll back": lambda update: update.roll_back(to_previous=flag, why="rolled back by a test"),
        "expire": lambda update: update.expire(generation, 1.0),
        "mark bad": lambda update: update.mark_bad(digest, "it is slow"),
        "forgive": lambda update: update.forgive(digest),
    }
    return name, acts[name]


def walk(folder: Path, seed: int) -> set[tuple[str, str]]:
    """Ask both the same and compare; return what was asked and in which state or with which error that ended."""
    choose, twins, log, met = random.Random(seed), Twins(folder), [], set()
    focus = 0
    for _ in range(STEPS):
        if choose.random() < 0.2:
            focus = choose.randrange(len(BUNDLES))
        if choose.random() < 0.4:
            twins.send(dict(choose.sample(list(BUNDLES[focus].items()), choose.choice((2, 4)))))
        if choose.random() < 0.04:
            twins.restart()
            log.append("restart")
        name, act = random_act(choose, twins.simulated.state, DIGESTS[focus])
        real, simulated = twins.both(act)
        log.append(f"{name} {focus}: {real}")
        assert simulated == real, log[-10:]
        assert twins.seen()[1] == twins.seen()[0], log[-10:]
        met.add((name, real if real in CODES else twins.simulated.state))
    return met


CANNOT_BE_STAGED = {
    "unknown_file",
    "bad_manifest",
    "missing_files",
    "older_refused",
    "bundle_bad",
    "bad_request",
}
CODES = {*CANNOT_BE_STAGED, "not_staged", "not_checked", "not_activated", "not_confirmed", "no_previous"}
GOALS = {
    *(("stage", code) for code in CANNOT_BE_STAGED),
    ("check", "checked"),
    ("check", "not_staged"),
    ("activate", "activated"),
    ("activate", "not_checked"),
    ("commit", "committed"),
    ("commit", "not_activated"),
    ("commit", "not_confirmed"),
    ("roll back", "committed"),
    ("roll back", "no_previous"),
    ("expire", "idle"),
    ("mark bad", "committed"),
}


def test_updates_go_the_same_way(tmp_path: Path) -> None:
    met = set().union(*(walk(tmp_path / str(seed), seed) for seed in range(3)))
    assert met >= GOALS


# --- disks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("quota", "full"), [(None, "disk_full"), (4000, "over_quota")])
def test_files_come_and_go_the_same_way(tmp_path: Path, quota: int | None, full: str) -> None:
    choose, met = random.Random(1), set()
    contents = [bytes([number]) * choose.randrange(0, 2500) for number in range(8)]
    size = (4000 if quota is None else 20_000) + RESERVE_BYTES
    used = {sha256(content) for content in contents[:2]}
    store = FileStore(tmp_path, quota, lambda: used, lambda _: size - store.held_bytes())
    disk = Disk(size, quota, lambda: used)
    for _ in range(100):
        act = random_file_act(choose, choose.choice(contents), keep=sha256(contents[2]))
        real, simulated = (outcome(act, keeper) for keeper in (store, disk))
        assert simulated == real
        assert disk.held_bytes() == store.held_bytes()
        met.add(str(real))
        time.sleep(MTIME_S)
    assert met >= {full, "unknown_file", "bad_offset", "bad_digest"}


def random_file_act(choose: random.Random, content: bytes, keep: str) -> Callable[[Any], Any]:
    """Return something to ask of a keeper of files."""
    digest, purpose = sha256(content), choose.choice(("bundle", "measure"))
    sent = bytes(len(content)) if choose.random() < 0.1 else content
    at, wrong = choose.random(), choose.random() < 0.1

    def put(keeper: Any) -> Any:
        there = keeper.offset(digest, len(content)) + wrong
        chunk = sent[there : there + 1 + int(at * len(content))]
        return keeper.put(digest, len(content), there, chunk, purpose)

    def read(keeper: Any) -> Any:
        found = (
            keeper.path(digest, purpose) if isinstance(keeper, FileStore) else keeper.read(digest, purpose)
        )
        return found.read_bytes() if isinstance(found, Path) else found

    acts = {
        put: 8,
        read: 2,
        (lambda keeper: keeper.has(digest, purpose)): 2,
        (lambda keeper: keeper.collect([keep])): 0.3,
    }
    return choose.choices(list(acts), list(acts.values()))[0]
