"""The run store: finished steps stay finished, a run has one worker at a time, damage is told in one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.errors import RunError, StorageError
from pipeline.store import Store


@dataclass(frozen=True)
class Value:
    name: str
    sizes: tuple[int, ...]


def test_a_finished_step_is_not_done_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = store.create({"task": {"name": "t"}})
    first = run.step("measure", Value, lambda: Value("a", (1, 2)))
    run.close()

    def fail() -> Value:
        raise AssertionError("done twice")

    again = store.open(run.id).step("measure", Value, fail)
    assert again == first == Value("a", (1, 2))


def test_a_step_of_another_version_is_refused_with_a_hint(tmp_path: Path) -> None:
    run = Store(tmp_path).create({})
    run.step("count", str, lambda: "many")
    with pytest.raises(RunError, match=r"'count' of run .* another version") as caught:
        run.step("count", int, lambda: 1)
    assert "new run" in str(caught.value.hint)


def test_a_step_that_fails_is_not_recorded(tmp_path: Path) -> None:
    run = Store(tmp_path).create({})
    with pytest.raises(ZeroDivisionError):
        run.step("divide", float, lambda: 1 / 0)
    assert not run.has("divide")
    assert run.step("divide", float, lambda: 0.5) == 0.5


def test_floats_come_back_bit_for_bit(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = store.create({})
    value = run.step("x", float, lambda: 0.1 + 0.2)
    run.close()
    assert store.open(run.id).step("x", float, lambda: 0.0) == value == 0.1 + 0.2


def test_a_run_has_one_worker_at_a_time(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = store.create({})
    with pytest.raises(RunError, match=f"being worked on by process {os.getpid()}"):
        store.open(run.id)
    run.close()
    store.open(run.id).close()


def test_unknown_run_is_refused_with_a_hint(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run 'nope'") as caught:
        Store(tmp_path).row("nope")
    assert "pipeline run list" in caught.value.hint


def test_latest_names_the_newest_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    ids = [store.create({}).id for _ in range(3)]
    assert store.row("latest").id == ids[-1]
    assert [row.id for row in store.rows()] == ids[::-1]


def test_a_damaged_database_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "runs.sqlite").write_bytes(b"not a database at all, but long enough to be looked at" * 40)
    with pytest.raises(StorageError, match=r"runs\.sqlite"):
        Store(tmp_path)


def test_a_newer_database_is_refused(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.transaction() as database:
        database.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="newer version"):
        Store(tmp_path)


_VICTIM = """
import sys
from pathlib import Path
from pipeline.store import Store
run = Store(Path(sys.argv[1])).open(sys.argv[2])
n = 0
while run.has(f"step {n}"):
    n += 1
while True:
    run.step(f"step {n}", int, lambda: n * n)
    print(n, flush=True)
    n += 1
"""


def test_steps_survive_sigkill_at_any_moment(tmp_path: Path) -> None:
    store = Store(tmp_path)
    run = store.create({})
    run.close()
    last = -1
    for kill_after in (1, 4, 2):
        victim = subprocess.Popen(
            [sys.executable, "-c", _VICTIM, str(tmp_path), run.id], stdout=subprocess.PIPE, text=True
        )
        assert victim.stdout is not None
        for _ in range(kill_after):
            last = int(victim.stdout.readline())
        victim.send_signal(signal.SIGKILL)
        victim.wait()
        victim.stdout.close()
    steps = store.steps(run.id)
    assert len(steps) > last
    assert [step.name for step in steps] == [f"step {n}" for n in range(len(steps))]
    assert [int(step.value) for step in steps] == [n * n for n in range(len(steps))]
