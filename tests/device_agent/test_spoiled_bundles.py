"""A card that spoils what lies on it: what is still whole is kept, and what was spoiled can be sent again."""

from __future__ import annotations

import pytest
from update_board import FIRST, NEW, OLD, OTHER, Board, attempt, sha256
from update_faults import Boards, clone
from update_invariants import spoiled_files
from update_scenarios import ALL

PARTS = ("model.onnx", "manifest.json")


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    return Boards(tmp_path_factory.mktemp("spoiled"))


@pytest.fixture
def board(boards):
    """Return a board with "old" as current and "first" as previous bundle, and "new" uploaded."""
    return Board(clone(boards.prepared(ALL["stage"]), boards.work))


def deploys(board):
    fresh = Board(board.folder, recover=True)
    fresh.deploy(OTHER["model"])
    return fresh.pair()[0] == "other"


@pytest.mark.parametrize("part", PARTS)
def test_a_bad_bundle_stays_while_the_previous_one_is_spoiled(board, part):
    board.spoil(FIRST, part)
    board.updater.mark_bad(OLD.digest, "why")
    assert board.pair()[0] == "old"
    assert deploys(board)


@pytest.mark.parametrize("part", PARTS)
def test_there_is_no_way_back_to_a_spoiled_bundle(board, part):
    board.spoil(FIRST, part)
    assert attempt(lambda: board.updater.roll_back(to_previous=True)) is not None
    assert board.pair()[0] == "old"
    assert deploys(board)


@pytest.mark.parametrize("part", PARTS)
def test_a_spoiled_bundle_with_nothing_before_it_is_mended_by_sending_it_again(board, part):
    board.updater.mark_bad(FIRST.digest, "why")
    board.spoil(OLD, part)
    assert "spoiled" in board.updater.audit()
    board.deploy(OLD)
    assert board.pair()[0] == "old"
    assert spoiled_files(board.home / "bundles" / OLD.digest) == []


@pytest.mark.parametrize("part", PARTS)
def test_an_uploaded_file_that_was_spoiled_before_it_was_used_is_sent_again(board, part):
    data = NEW.manifest if part == "manifest.json" else NEW.files[part]
    path = board.store.path(sha256(data))
    path.chmod(0o644)
    path.write_bytes(data[:-1] + b"!")
    assert attempt(lambda: board.updater.stage(NEW.digest)).code == "bad_digest"
    board.deploy(NEW)
    assert board.pair() == ("new", "old")


@pytest.mark.parametrize("part", PARTS)
def test_uploads_find_room_on_a_board_with_a_spoiled_bundle(board, part):
    board.spoil(OLD, part)
    assert board.store.collect([]) != (0, 0)
