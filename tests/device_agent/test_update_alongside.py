"""Updates and the world around them: other processes, other threads, clocks, and disks that take no more."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import threading
import time

import pytest
from disk_operations import watched
from update_board import NEW, RIVAL, Board, attempt, sha256
from update_faults import Boards, Fault, Spoiler, act_on, clone, in_child
from update_invariants import opens, violations
from update_scenarios import ALL

from device_agent.active import active_model
from device_agent.serve.stdio import locked

AUDITED = ("os.mkdir", "os.rmdir", "os.remove", "os.rename", "os.link", "os.symlink", "os.chmod", "os.utime")


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    return Boards(tmp_path_factory.mktemp("alongside"))


def test_another_process_never_sees_a_torn_model(boards):
    board = Board(clone(boards.prepared(ALL["activate"]), boards.work))
    over, looking = boards.work.with_name("over"), os.fork()
    if not looking:
        os._exit(_look_until(over, board.folder))
    for _ in range(60):
        board.updater.activate(NEW.digest)
        board.updater.roll_back()
        board.stage(NEW)
        board.check(NEW)
    over.touch()
    assert os.waitstatus_to_exitcode(os.waitpid(looking, 0)[1]) == 0


def _look_until(over, folder):
    """Return 0 if every model that was seen was whole, or gone together with its generation."""
    with contextlib.suppress(Exception):
        looks = 0
        while not over.exists():
            if _is_torn(active_model(folder), folder):
                return 1
            looks += 1
        return 0 if looks else 2
    return 3


def _is_torn(model, folder):
    try:
        digests = {name: sha256((model.folder / name).read_bytes()) for name in model.manifest["files"]}
    except FileNotFoundError:
        return active_model(folder).generation == model.generation
    return digests != {name: entry["sha256"] for name, entry in model.manifest["files"].items()}


def test_no_generation_number_is_given_twice(boards):
    """Who watches the number must see that another bundle came in the place of one that was rolled back."""
    board = Board(clone(boards.prepared(ALL["activate"]), boards.work))
    first = board.updater.activate(NEW.digest)
    board.updater.roll_back()
    assert board.activate(RIVAL) != first


def test_uploads_and_staging_do_not_wait_for_each_other_for_ever(boards):
    """Making room asks what is in use while it holds the store; staging holds the update and asks the store."""
    board = Board(clone(boards.prepared(ALL["stage"]), boards.work))
    asked = threading.Event()

    def in_use():
        asked.set()
        time.sleep(0.2)
        return board.updater.files_in_use()

    board.store._in_use = in_use
    collecting = threading.Thread(target=lambda: board.store.collect([NEW.digest]), daemon=True)
    staging = threading.Thread(target=lambda: attempt(lambda: board.updater.stage(NEW.digest)), daemon=True)
    collecting.start()
    asked.wait()
    staging.start()
    for thread in (collecting, staging):
        thread.join(timeout=10)
        assert not thread.is_alive()


def test_the_wall_clock_plays_no_part(boards, monkeypatch):
    """Boards without a clock of their own wake up in 1970; files may be from the future."""
    ticks = iter(range(10**9, 0, -86400))
    monkeypatch.setattr(time, "time", lambda: float(next(ticks)))
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    for scenario in ALL.values():
        folder = clone(boards.prepared(scenario), boards.work)
        for path in folder.rglob("*"):
            os.utime(path, (4e9, 4e9), follow_symlinks=False)
        assert act_on(folder, scenario, None)[1] == []
        assert violations(folder, scenario, ended=True) == []


@pytest.mark.parametrize("error", [errno.EROFS, errno.ENOSPC])
def test_the_state_folder_can_be_held_on_a_disk_that_takes_no_more(boards, error):
    folder = clone(boards.prepared(ALL["stage"]), boards.work)
    (folder / "lock").write_text("1\n")
    with watched(Spoiler(Fault(0, "error", error, lasting=True))), locked(folder):
        pass


def test_a_read_only_disk_is_opened_whatever_the_rights_of_its_folders(boards):
    folder = clone(boards.prepared(ALL["stage"]), boards.work)
    for place in (folder, *(path for path in folder.iterdir() if path.is_dir())):
        place.chmod(0o700)
    with watched(Spoiler(Fault(0, "error", errno.EROFS, lasting=True))):
        assert opens(folder, "model") == []


def test_every_operation_on_the_disk_is_seen(boards):
    """The interpreter's own auditing tells of as many changes as the tests' observer saw."""
    ours, theirs = in_child(lambda: _counted_twice(boards))
    assert ours == theirs
    assert sum(theirs.values()) > 50


def _counted_twice(boards):
    board = Board(clone(boards.prepared(ALL["deploy"]), boards.work))
    seen, heard, armed = dict.fromkeys(AUDITED, 0), dict.fromkeys(AUDITED, 0), []

    def see(operation, perform):
        kind = "os.remove" if operation.kind == "unlink" else f"os.{operation.kind}"
        seen[kind] = seen.get(kind, 0) + 1
        return perform()

    def hear(event, _):
        if armed and event in heard:
            heard[event] += 1

    sys.addaudithook(hear)
    with watched(see):
        armed.append(True)
        board.deploy(NEW)
        armed.clear()
    return {name: seen[name] for name in AUDITED}, heard
