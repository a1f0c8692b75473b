"""Whatever part of the unsynced writes a power cut lets last, the board comes back with a whole model."""

from __future__ import annotations

import random

import pytest
from disk_operations import watched
from power_cut import Disk, Recorder, all_names, as_now, materialise
from update_faults import KILLED, Boards, clone, die, held, in_child, power_cuts, recorded
from update_invariants import fingerprint
from update_scenarios import ALL
from update_walks import explore

THOROUGHLY = (
    "activate",
    "commit",
    "roll back",
    "stage an agent",
    "go on with an upload",
    "take over a measured file",
)


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    return Boards(tmp_path_factory.mktemp("cuts"))


@pytest.mark.parametrize("name", THOROUGHLY)
def test_power_cut_after_any_operation(boards, name):
    found = list(power_cuts(boards, ALL[name], random.Random(name)))
    assert [text for wrong in found for text in wrong] == []
    assert len(found) > 4


@pytest.mark.parametrize("name", [name for name in ALL if name not in THOROUGHLY])
def test_power_cut_after_some_operations(boards, name):
    found = list(power_cuts(boards, ALL[name], random.Random(name), share=0.06))
    assert [text for wrong in found for text in wrong] == []


@pytest.mark.parametrize("seed", range(4))
def test_power_cut_somewhere_in_a_long_life(boards, seed):
    life = explore(boards, seed, 25)
    found = list(power_cuts(boards, life.at(0), random.Random(seed), share=0.005, at=life.at))
    assert [text for wrong in found for text in wrong] == []


@pytest.mark.parametrize("name", ["stage", "commit", "upload in chunks"])
def test_without_fsync_power_cuts_do_harm(boards, name, monkeypatch):
    """The disk that is played does forget: when its fsyncs do nothing, acts break their promises."""
    monkeypatch.setattr(Disk, "_fsync", lambda *_: None)
    said = str(list(power_cuts(boards, ALL[name], random.Random(name), share=0.5)))
    assert "promise" in said or "spoiled" in said or "damaged" in said


@pytest.mark.parametrize("name", ["deploy", "take over a measured file"])
def test_what_was_recorded_plays_back_as_what_happened(boards, name):
    """With nothing forgotten, the played disk is the one that a kill at the same moment leaves."""
    scenario, place = ALL[name], boards.work.with_name("played")
    work = clone(boards.prepared(scenario), boards.work)
    disk = Disk(work)
    for step, operation in enumerate(recorded(work, scenario).operations):
        if step % 7 == 0:
            killed = clone(boards.prepared(scenario), boards.work)
            assert in_child(lambda at=killed, count=step: _act_and_die(at, scenario, count)) == KILLED
            materialise(disk.root, place, all_names, as_now)
            assert fingerprint(place) == fingerprint(killed), step
        disk.play(operation)


def _act_and_die(folder, scenario, count):
    """Die before the operation after so many that worked."""
    board, recorder = held(folder, scenario), Recorder()

    def see(operation, perform):
        if len(recorder.operations) == count:
            die()
        return recorder(operation, perform)

    with watched(see):
        scenario.act(board)
