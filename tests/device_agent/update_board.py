"""Bundles with names, and a board that takes them, seen as the process sees it that has the state folder open."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from device_agent.errors import RequestError
from device_agent.serve.trees import AGENT_FOLDER, STARTS
from device_agent.updates import journal
from device_agent.updates.store import FileStore
from device_agent.updates.update import MOST_CRASHES, Updater

Pair = tuple[str | None, str | None]
BEFORE: Pair = ("old", "first")
AFTER: Pair = ("new", "old")
SIGNATURES = [{"key": "k", "signature": "s"}]


def sha256(data: bytes) -> str:
    """Return a digest, with other code than the agent's."""
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class Bundle:
    """A bundle by its name; its files' contents follow from that."""

    name: str
    sequence: int
    kind: str = "model"

    @property
    def files(self) -> dict[str, bytes]:
        """Return the contents by name; an agent's lie in folders, one of which holds no file itself."""
        model = ("model.onnx", "in.npy", "out.npy")
        agent = ("device_agent/__init__.py", "device_agent/deep/er/part.py", "top.py")
        names = model if self.kind == "model" else agent
        return {
            **{name: f"{name} of {self.name}".encode() for name in names},
            "shared.bin": b"in every bundle",
        }

    @property
    def manifest(self) -> bytes:
        """Return the manifest's bytes."""
        more: dict[str, Any] = {"kind": "agent", "agent": {"version": "1.0"}}
        if self.kind == "model":
            golden = {"inputs": ["in.npy"], "outputs": ["out.npy"], "tolerance": {"rtol": 0, "atol": 0}}
            more = {"model": {"file": "model.onnx", "runtime": "none", "threads": 1}, "golden": golden}
        files = {name: {"sha256": sha256(data), "size": len(data)} for name, data in self.files.items()}
        return json.dumps(
            {"format": 1, "name": self.name, "sequence": self.sequence, "files": files, **more}
        ).encode()

    @property
    def digest(self) -> str:
        """Return the name it has on a board."""
        return sha256(self.manifest)


def _family(kind: str) -> dict[str, Bundle]:
    names = {"older": 1, "first": 2, "old": 3, "new": 5, "rival": 6, "other": 90}
    return {name: Bundle(name, sequence, kind) for name, sequence in names.items()}


BUNDLES = {kind: _family(kind) for kind in ("model", "agent")}
NAMES = {bundle.digest: name for family in BUNDLES.values() for name, bundle in family.items()}
OTHER = {kind: BUNDLES[kind]["other"] for kind in BUNDLES}
OLD, NEW, FIRST, RIVAL, OLDER = (BUNDLES["model"][name] for name in ("old", "new", "first", "rival", "older"))


class Board:
    """A state folder as the process sees it that already has it open, so nothing is recovered unless asked for."""

    def __init__(self, folder: Path, kind: str = "model", *, recover: bool = False) -> None:
        self.folder = folder
        self.home = folder if kind == "model" else folder / AGENT_FOLDER
        self.kind = kind
        self._recover = recover

    @cached_property
    def store(self) -> FileStore:
        """Return the files, opened when they are first asked for."""
        return FileStore(self.folder, in_use=self._in_use)

    @cached_property
    def updater(self) -> Updater:
        """Return the update, opened when it is first asked for."""
        starts = 0 if self.kind == "model" else STARTS
        return Updater(self.home, self.store, self.kind, starts, recover=self._recover)

    def _in_use(self) -> set[str]:
        return self.updater.files_in_use()

    def put(self, data: bytes, purpose: str = "bundle", chunk: int = 1 << 20) -> None:
        """Upload from where the upload stands."""
        name = sha256(data)
        there = self.store.offset(name, len(data))
        for offset in range(there, max(len(data), there + 1), chunk):
            self.store.put(name, len(data), offset, data[offset : offset + chunk], purpose)

    def upload(self, bundle: Bundle) -> None:
        """Upload a bundle's missing files, as a host does: a beginning that was spoiled is sent again."""
        for data in (*bundle.files.values(), bundle.manifest):
            if not self.store.has(sha256(data)) and attempt(lambda data=data: self.put(data)):
                self.put(data)

    def check(self, bundle: Bundle, *, ok: bool = True) -> None:
        """Do what a check writes down."""
        self.updater.begin_check(bundle.digest)
        self.updater.end_check(bundle.digest, ok=ok)

    def stage(self, bundle: Bundle, **options: Any) -> None:
        """Upload and stage."""
        self.upload(bundle)
        self.updater.stage(bundle.digest, SIGNATURES, **options)

    def activate(self, bundle: Bundle, *, confirm: bool = False, **options: Any) -> int:
        """Go from upload to activation; returns the generation."""
        self.stage(bundle, **options)
        self.check(bundle)
        return self.updater.activate(bundle.digest, confirm=confirm)

    def deploy(self, bundle: Bundle, **options: Any) -> None:
        """Go all the way."""
        self.activate(bundle, **options)
        self.updater.commit(bundle.digest)

    def pair(self) -> Pair:
        """Return the names of the current and the previous bundle."""
        status = self.updater.status()
        return NAMES.get(status.current or ""), NAMES.get(status.previous or "")

    def state(self) -> str:
        """Return what the journal says."""
        return journal.read(self.home).state

    def spoil(self, bundle: Bundle, name: str) -> None:
        """Change a byte of a file on the disk, as a failing card does."""
        path = self.home / "bundles" / bundle.digest / name
        path.chmod(0o644)
        with path.open("r+b") as stream:
            stream.write(b"\0")
        path.chmod(0o444)


def attempt(function: Callable[[], Any]) -> Exception | None:
    """Return the error of the kinds that an agent answers with, if one came."""
    try:
        function()
    except (RequestError, OSError) as error:
        return error
    return None


def make_base(folder: Path, kind: str = "model") -> None:
    """Make the board that most scenarios begin with."""
    board = Board(folder, kind, recover=True)
    for name in ("first", "old"):
        board.deploy(BUNDLES[kind][name])
    for name in ("new", "rival", "older"):
        board.upload(BUNDLES[kind][name])


def reopen(board: Board) -> Board:
    """Open the folder as a process does that has just been started."""
    fresh = Board(board.folder, board.kind, recover=True)
    fresh.updater.status()
    return fresh


def crashes(board: Board, times: int = MOST_CRASHES) -> None:
    """Have the checker die so many times, the last time still without anybody's having written it down."""
    board.stage(NEW)
    for _ in range(times):
        board.updater.begin_check(NEW.digest)
