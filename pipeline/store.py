"""Runs on disk: one SQLite file for what happened, one folder a run for the files it made.

A run is a list of named steps. `Run.step` returns what a finished step recorded, or does the work and records its
value in one transaction; so a run killed at any moment goes on from its last finished step. Files are written
whole before the step that made them is recorded.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import platformdirs
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import RunError, StorageError
from pipeline.files import storage_error, storage_errors

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    id TEXT PRIMARY KEY, created TEXT NOT NULL, config TEXT NOT NULL,
    status TEXT NOT NULL, message TEXT NOT NULL DEFAULT '', summary TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS steps (
    run TEXT NOT NULL REFERENCES runs(id), position INTEGER NOT NULL, name TEXT NOT NULL,
    seconds REAL NOT NULL, value TEXT NOT NULL, PRIMARY KEY (run, name)
) STRICT;
"""
_VERSION = 1

T = TypeVar("T")


@dataclass(frozen=True)
class RunRow:
    """One line of `pipeline run list`. `status` is running, met, infeasible or failed."""

    id: str
    created: str
    status: str
    message: str
    config: dict[str, Any]


@dataclass(frozen=True)
class StepRow:
    """One finished step: its name, how long it took and the JSON that it recorded."""

    name: str
    seconds: float
    value: str


def state_folder() -> Path:
    """Return the user's state folder (XDG_STATE_HOME is honoured); it need not exist yet."""
    return Path(platformdirs.user_state_dir("pipeline"))


class Store:
    """All runs of one user.

    Raises:
        StorageError: the state folder cannot be written, or its database is damaged or from a newer version.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or state_folder()
        self._file = self.folder / "runs.sqlite"
        with storage_errors(self.folder):
            (self.folder / "runs").mkdir(parents=True, exist_ok=True)
        with self.transaction() as database:
            version = database.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise StorageError(
                    f"{self._file} was written by a newer version", hint="upgrade edge-pipeline"
                )
            database.executescript(f"{_SCHEMA}PRAGMA user_version = {_VERSION};")

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Open the database for one transaction: everything in it is kept, or nothing."""
        try:
            database = sqlite3.connect(self._file, timeout=30)
            try:
                with database:
                    yield database
            finally:
                database.close()
        except sqlite3.Error as error:
            raise StorageError(
                f"{self._file}: {error}", hint="free some space, or move the file away"
            ) from error

    def create(self, config: dict[str, Any]) -> Run:
        """Record a new run with all that is needed to resume it, and lock it for this process."""
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        identity = time.strftime("%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2)
        with self.transaction() as database:
            database.execute(
                "INSERT INTO runs (id, created, config, status) VALUES (?, ?, ?, 'running')",
                (identity, created, json.dumps(config)),
            )
        return self.open(identity)

    def open(self, identity: str) -> Run:
        """Open a run for work; only one process at a time may.

        Raises:
            RunError: no such run, or another process is working on it.
        """
        return Run(self, self.row(identity))

    def row(self, identity: str) -> RunRow:
        """Return one run's line; "latest" names the newest.

        Raises:
            RunError: no such run.
        """
        rows = self.rows()
        matching = rows[:1] if identity == "latest" else [row for row in rows if row.id == identity]
        if not matching:
            raise RunError(f"no run {identity!r}", hint="`pipeline run list` shows the known ones")
        return matching[0]

    def rows(self) -> list[RunRow]:
        """Return all runs, newest first."""
        with self.transaction() as database:
            found = database.execute(
                "SELECT id, created, status, message, config FROM runs ORDER BY created DESC, rowid DESC"
            ).fetchall()
        return [
            RunRow(identity, created, status, message, json.loads(config))
            for identity, created, status, message, config in found
        ]

    def steps(self, identity: str) -> list[StepRow]:
        """Return the finished steps of a run in the order in which they were done."""
        with self.transaction() as database:
            found = database.execute(
                "SELECT name, seconds, value FROM steps WHERE run = ? ORDER BY position", (identity,)
            ).fetchall()
        return [StepRow(*row) for row in found]

    def summary(self, identity: str) -> dict[str, Any]:
        """Return the summary that a run recorded last.

        Raises:
            RunError: it has none yet.
        """
        with self.transaction() as database:
            found = database.execute("SELECT summary FROM runs WHERE id = ?", (identity,)).fetchone()
        if not found or found[0] is None:
            raise RunError(
                f"run {identity} has measured nothing yet", hint=f"pipeline deploy --resume {identity}"
            )
        summary: dict[str, Any] = json.loads(found[0])
        return summary

    def run_folder(self, identity: str) -> Path:
        """Return the folder that holds a run's files."""
        return self.folder / "runs" / identity


class Run:
    """One run, open for work in this process."""

    def __init__(self, store: Store, row: RunRow) -> None:
        self.store = store
        self.id = row.id
        self.created = row.created
        self.config = row.config
        self.folder = store.run_folder(row.id)
        with storage_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder / "lock", row.id)
        self._done = {step.name: step for step in store.steps(row.id)}

    def close(self) -> None:
        """Let another process work on this run."""
        self._lock.close()

    def has(self, name: str) -> bool:
        """Tell whether a step is finished."""
        return name in self._done

    def step(self, name: str, kind: type[T], work: Callable[[], T]) -> T:
        """Return the value that step `name` recorded earlier, or do the work and record it.

        Args:
            name: unique within the run.
            kind: the value's type: plain data or a frozen dataclass of plain data, kept as JSON.
            work: does the step; the files it makes must be durable when it returns.

        Raises:
            RunError: the step was recorded in another form, by another version of this program.
        """
        codec = TypeAdapter(kind)
        if name in self._done:
            return self._recorded(name, codec)
        start = time.monotonic()
        value = work()
        self._record(StepRow(name, time.monotonic() - start, codec.dump_json(value).decode()))
        return value

    def _recorded(self, name: str, codec: TypeAdapter[T]) -> T:
        try:
            return codec.validate_json(self._done[name].value)
        except ValidationError as error:
            raise RunError(
                f"step {name!r} of run {self.id} cannot be read: another version recorded it",
                hint="start a new run; what was measured for its latency table is known already",
            ) from error

    def _record(self, step: StepRow) -> None:
        with self.store.transaction() as database:
            database.execute(
                "INSERT INTO steps (run, position, name, seconds, value) VALUES (?, ?, ?, ?, ?)",
                (self.id, len(self._done), step.name, step.seconds, step.value),
            )
        self._done[step.name] = step

    def finish(self, status: str, message: str, summary: dict[str, Any] | None) -> None:
        """Record how the run stands: its status, one sentence, and the summary that reports are made of."""
        text = None if summary is None else json.dumps(summary)
        with self.store.transaction() as database:
            database.execute(
                "UPDATE runs SET status = ?, message = ?, summary = coalesce(?, summary) WHERE id = ?",
                (status, message, text, self.id),
            )


def _lock(path: Path, identity: str) -> IO[str]:
    with storage_errors(path):
        stream = path.open("a+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        stream.seek(0)
        owner = stream.read().strip() or "another process"
        stream.close()
        raise RunError(
            f"run {identity} is being worked on by {owner}", hint="wait for it, or stop it"
        ) from None
    try:
        stream.truncate(0)
        stream.write(f"process {os.getpid()}")
        stream.flush()
    except OSError as error:
        stream.close()
        raise storage_error(error, path) from error
    return stream
