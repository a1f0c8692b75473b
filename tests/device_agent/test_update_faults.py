"""No kill and no failing disk, at whatever operation, leaves a board without its model or without its updates."""

from __future__ import annotations

import errno
import random

import pytest
from disk_operations import watched
from update_board import BEFORE, NEW, OLD, Board, attempt, reopen
from update_faults import (
    KILLED,
    Boards,
    Fault,
    FilledDisk,
    Spoiler,
    act_on,
    carried_on,
    clone,
    held,
    in_child,
    trial,
)
from update_invariants import Writes, spoiled_files, violations
from update_scenarios import ALL, Scenario
from update_walks import explore

MAIN = (
    "first deploy",
    "stage",
    "activate",
    "commit",
    "roll back",
    "go back to the previous",
    "mark the current one bad",
    "audit a spoiled bundle",
    "stage an agent",
    "start a new agent once too often",
)
BY_THE_RESERVE = (
    "end a check",
    "commit",
    "no confirmation came",
    "roll back",
    "go back to the previous",
    "mark the current one bad",
    "mark the activated one bad",
    "audit a spoiled bundle",
)
EVERY_ERROR = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
CUT_SHORT = ("stage", "begin a check", "activate", "commit", "roll back", "mark the current one bad")


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    return Boards(tmp_path_factory.mktemp("faults"))


def steps(boards, name, dice, some=5):
    """Return all operations of a main scenario, and some of another."""
    count = boards.operations(ALL[name])
    return range(count) if name in MAIN else dice.sample(range(count), min(some, count))


@pytest.mark.parametrize("name", ALL)
def test_what_an_act_promised_holds_for_the_next_process(boards, name):
    folder = clone(boards.prepared(ALL[name]), boards.work)
    assert act_on(folder, ALL[name], None)[1] == []
    assert violations(folder, ALL[name], ended=True) == []


@pytest.mark.parametrize("name", ALL)
def test_killed_before_any_operation(boards, name):
    prepared, known, wrong = boards.prepared(ALL[name]), set(), []
    for step in steps(boards, name, random.Random(name)):
        wrong += trial(prepared, boards.work, ALL[name], Fault(step, "kill"), known)
    assert wrong == []


@pytest.mark.parametrize("name", MAIN)
def test_the_disk_is_full_for_good_from_any_operation_on(boards, name):
    prepared, known, wrong = boards.prepared(ALL[name]), set(), []
    for step in steps(boards, name, random.Random(name)):
        fault = Fault(step, "error", errno.ENOSPC, lasting=True)
        wrong += trial(prepared, boards.work, ALL[name], fault, known)
    assert wrong == []


@pytest.mark.parametrize("name", BY_THE_RESERVE)
def test_what_ends_an_update_works_on_a_disk_that_others_have_filled(boards, name):
    board = held(clone(boards.prepared(ALL[name]), boards.work), ALL[name])
    with watched(FilledDisk()):
        assert attempt(lambda: ALL[name].act(board)) is None
        assert reopen(board).pair() in (ALL[name].after, *ALL[name].allowed)
    assert violations(board.folder, ALL[name], ended=True) == []


@pytest.mark.parametrize("name", ALL)
def test_a_disk_that_fails_in_other_ways(boards, name):
    dice, count, wrong = random.Random(name), boards.operations(ALL[name]), []
    for kind in dice.sample(("torn", "short", "error", "error for good"), 2):
        fault = Fault(dice.randrange(count), kind.split()[0], dice.choice(EVERY_ERROR), kind.endswith("good"))
        wrong += trial(boards.prepared(ALL[name]), boards.work, ALL[name], fault)
    assert wrong == []


@pytest.mark.parametrize("name", ALL)
def test_the_same_process_goes_on_once_the_disk_works_again(boards, name):
    dice = random.Random(name)
    fault = Fault(dice.randrange(boards.operations(ALL[name])), "error", dice.choice(EVERY_ERROR))
    assert carried_on(clone(boards.prepared(ALL[name]), boards.work), ALL[name], fault) == []


@pytest.mark.parametrize("name", CUT_SHORT)
def test_recovery_may_itself_be_killed_anywhere(boards, name):
    scenario, dice, wrong = ALL[name], random.Random(name), []
    opening = scenario.reopened()
    for step in range(0, boards.operations(scenario), 4):
        once = clone(boards.prepared(scenario), boards.work.with_name("once"))
        assert act_on(once, scenario, Fault(step, "kill")) == KILLED
        count, found = act_on(clone(once, boards.work), opening, None)
        assert found == []
        for again in dice.sample(range(count), min(2, count)):
            wrong += trial(once, boards.work, opening, Fault(again, "kill"))
    assert wrong == []


@pytest.mark.parametrize("seed", range(6))
def test_killed_somewhere_in_a_long_life(boards, seed):
    life, dice, wrong = explore(boards, seed, 25), random.Random(seed), []
    for step in dice.sample(range(life.ends[-1]), 6):
        wrong += trial(boards.prepared(ALL["stage"]), boards.work, life.at(step), Fault(step, "kill"))
    assert wrong == []


def test_a_checker_that_dies_each_time_is_given_up_whenever_recovery_is_killed(boards):
    """Three boots that end in the check are enough, however far each came in tidying up after the last."""
    scenario = Scenario("boot loop", reopen, opens=True)
    for step in range(40):
        folder = clone(boards.prepared(ALL["stage"]), boards.work)
        in_child(lambda at=folder: _crash_in_checks(Board(at), 3))
        ended = act_on(folder, scenario, Fault(step, "kill")) != KILLED
        assert NEW.digest in Board(folder, recover=True).updater.status().bad, step
        if ended:
            return
    pytest.fail("recovery never came to its end")


def _crash_in_checks(board, times):
    board.stage(NEW)
    for _ in range(times):
        board = reopen(board)
        board.updater.begin_check(NEW.digest)


def test_a_bundle_that_was_marked_bad_is_never_activated_however_the_marking_ended(boards):
    scenario = ALL["mark the staged one bad"]
    for step in range(boards.operations(scenario)):
        folder = clone(boards.prepared(scenario), boards.work)
        act_on(folder, scenario, Fault(step, "kill"))
        board = Board(folder, recover=True)
        marked = NEW.digest in board.updater.status().bad
        activated = attempt(lambda at=board: at.updater.activate(NEW.digest)) is None
        assert activated != marked, step


def test_an_activation_that_could_not_be_taken_back_is_taken_back_by_the_next_request(boards):
    scenario = ALL["no confirmation came"]
    for error in (errno.ENOSPC, errno.EIO):
        board = held(clone(boards.prepared(scenario), boards.work), scenario)
        with watched(Spoiler(Fault(0, "error", error, lasting=True))):
            assert attempt(lambda at=board: scenario.act(at)) is not None
        board.updater.forgive(NEW.digest)
        assert board.pair() == BEFORE


def test_opening_a_settled_board_writes_nothing(boards):
    board = Board(clone(boards.prepared(ALL["stage"]), boards.work))
    for _ in range(3):
        writes = Writes()
        with watched(writes):
            reopen(board)
        assert writes.done == []


def test_the_spoiled_byte_of_a_bundle_is_found_by_the_harness(boards):
    board = Board(clone(boards.prepared(ALL["stage"]), boards.work))
    board.spoil(OLD, "model.onnx")
    assert spoiled_files(board.home / "bundles" / OLD.digest) == ["model.onnx"]
    assert any("spoiled" in text for text in violations(board.folder, ALL["stage"]))
