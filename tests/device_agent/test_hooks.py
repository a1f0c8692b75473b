import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from device_agent.errors import RequestError
from device_agent.serve.hooks import AFTER, BEFORE, Hooks
from device_agent.work import offspring


@pytest.fixture
def board(tmp_path):
    """A folder for hooks and a state folder; hooks write what they do to `log`."""
    for name in ("hooks", "state"):
        (tmp_path / name).mkdir(mode=0o755)
    return tmp_path


def write(board, name, body, mode=0o755):
    path = board / "hooks" / name
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(mode)
    return path


def write_both(board):
    for name in (BEFORE, AFTER):
        write(board, name, f'echo "$DEVICE_AGENT_HOOK" >> {board}/log')


def log(board):
    path = board / "log"
    return path.read_text().split() if path.exists() else []


def hooks(board, **options):
    return Hooks(board / "hooks", board / "state", **options)


def left(board):
    return sorted(path.name for path in (board / "state").iterdir())


def test_both_run_around_the_block_in_their_order(board):
    write_both(board)
    with hooks(board).around():
        assert log(board) == [BEFORE]
        assert left(board) != []
    assert log(board) == [BEFORE, AFTER]
    assert left(board) == []


@pytest.mark.parametrize("present", [(), (BEFORE,), (AFTER,)])
def test_a_hook_that_is_not_there_is_not_missed(board, present):
    for name in present:
        write(board, name, f"echo {name} >> {board}/log")
    with hooks(board).around():
        pass
    assert log(board) == list(present)
    with Hooks(None, board / "state").around():
        pass
    assert left(board) == []


@pytest.mark.parametrize("error", [ValueError("no"), RequestError("cancelled", "no"), KeyboardInterrupt()])
def test_after_runs_however_the_block_ends(board, error):
    write_both(board)
    with pytest.raises(type(error)), hooks(board).around():
        raise error
    assert log(board) == [BEFORE, AFTER]
    assert left(board) == []


def test_a_before_that_fails_is_an_error_with_its_last_words_and_after_runs(board):
    write_both(board)
    write(board, BEFORE, "echo stopping; echo cannot stop it >&2; exit 7")
    with pytest.raises(RequestError) as caught, hooks(board).around():
        raise AssertionError("the block must not run")
    assert caught.value.code == "hook_failed"
    assert "status 7" in caught.value.message
    assert "cannot stop it" in caught.value.message
    assert log(board) == [AFTER]


def test_an_after_that_fails_is_told_and_tried_again_at_the_next_start(board):
    write_both(board)
    write(board, AFTER, "echo it does not start; exit 1")
    warnings = []
    with hooks(board).around(warnings.append):
        pass
    assert len(warnings) == 1
    assert "it does not start" in warnings[0]
    assert left(board) != []
    write_both(board)
    hooks(board).recover(warnings.append)
    assert log(board) == [BEFORE, AFTER]
    assert len(warnings) == 1
    assert left(board) == []


def test_an_after_that_fails_does_not_hide_the_block_s_own_error(board):
    write(board, AFTER, "exit 1")
    warnings = []
    with pytest.raises(ValueError, match="mine"), hooks(board).around(warnings.append):
        raise ValueError("mine")
    assert warnings


def test_a_hook_that_takes_too_long_is_ended_with_its_children(board):
    write(board, BEFORE, f"sleep 1000 & echo $! > {board}/child; sleep 1000")
    with pytest.raises(RequestError, match=r"longer than 0\.5 s"), hooks(board, longest_s=0.5).around():
        pass
    child = int((board / "child").read_text())
    for _ in range(500):
        if child not in {each.pid for each in offspring.processes() if each.state != "Z"}:
            break
        time.sleep(0.01)
    else:
        raise AssertionError("the hook's child lives on")


def test_an_application_that_after_starts_lives_on_and_holds_nothing_up(board):
    write(board, AFTER, f"sleep 1000 > /dev/null 2>&1 & echo $! > {board}/child")
    begin = time.monotonic()
    with hooks(board).around():
        pass
    assert time.monotonic() - begin < 30
    child = int((board / "child").read_text())
    os.kill(child, signal.SIGKILL)


def test_a_hook_that_prints_without_end_is_ended(board):
    write(board, BEFORE, "exec cat /dev/zero")
    with pytest.raises(RequestError, match="printed more than"), hooks(board).around():
        pass


def test_a_hook_has_no_stdin(board):
    write(board, BEFORE, f"cat > {board}/stdin; test ! -s {board}/stdin")
    with hooks(board).around():
        pass


@pytest.mark.parametrize("what", ["hook", "folder", "parent"])
@pytest.mark.parametrize("mode", [0o020, 0o002])
def test_what_others_may_write_to_is_not_run(board, what, mode):
    write_both(board)
    place = {"hook": board / "hooks" / BEFORE, "folder": board / "hooks", "parent": board}[what]
    place.chmod(place.stat().st_mode | mode)
    with pytest.raises(RequestError) as caught, hooks(board).around():
        pass
    assert caught.value.code == "hook_failed"
    assert "others may write" in caught.value.message
    assert "chmod" in caught.value.hint
    assert log(board) == []


def test_a_link_to_what_others_may_write_to_is_not_run(board):
    (board / "open").mkdir()
    (board / "open").chmod(0o777)
    target = board / "open" / "evil"
    target.write_text("#!/bin/sh\n")
    target.chmod(0o755)
    (board / "hooks" / BEFORE).symlink_to(target)
    with pytest.raises(RequestError, match="others may write"), hooks(board).around():
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
@pytest.mark.parametrize("what", ["hook", "folder"])
def test_what_belongs_to_another_user_is_not_run(board, what):
    write_both(board)
    os.chown({"hook": board / "hooks" / AFTER, "folder": board / "hooks"}[what], 65534, 65534)
    with pytest.raises(RequestError, match="belongs to user 65534"), hooks(board).around():
        pass
    assert log(board) == []


def test_a_file_that_cannot_be_executed_is_an_error(board):
    write(board, BEFORE, "true", mode=0o644)
    with pytest.raises(RequestError, match="cannot be executed"), hooks(board).around():
        pass
    write(board, BEFORE, "true").write_bytes(b"\0 no program")
    with pytest.raises(RequestError, match="cannot be run"), hooks(board).around():
        pass


def test_an_agent_that_was_killed_in_between_starts_the_application_when_it_comes_back(board):
    write_both(board)
    code = (
        "import sys, time; from pathlib import Path; from device_agent.serve.hooks import Hooks\n"
        f"with Hooks(Path({str(board / 'hooks')!r}), Path({str(board / 'state')!r})).around():\n"
        "    print('in', flush=True); time.sleep(1000)"
    )
    agent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert agent.stdout.readline() == b"in\n"
    agent.kill()
    agent.wait()
    agent.stdout.close()
    assert log(board) == [BEFORE]
    hooks(board).recover()
    assert log(board) == [BEFORE, AFTER]
    hooks(board).recover()
    assert log(board) == [BEFORE, AFTER]
