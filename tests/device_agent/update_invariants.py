"""What must be true of a state folder whatever happened to it, found out as a fresh process finds it."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

from disk_operations import watched
from update_board import NAMES, OLD, OTHER, Board, Bundle, attempt, reopen, sha256
from update_scenarios import Scenario

from device_agent.active import read_active
from device_agent.updates import journal

SETTLED = ("idle", "staged", "checked", "committed")


class Writes:
    """Counts the operations that changed something."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __call__(self, operation, perform):
        result = perform()
        self.done.append(f"{operation.kind} {operation.path}")
        return result


def violations(
    folder: Path, scenario: Scenario, *, ended: bool = False, known: set[bytes] | None = None
) -> list[str]:
    """Return everything that is wrong; afterwards another bundle is deployed.

    Args:
        folder: the state folder, which nobody has open.
        scenario: what was going on.
        ended: the act came to its end, so what it promised must have lasted.
        known: settled states from which a deploy is known to work; it is not tried again, the others are added.
    """
    with watched(Writes()):
        board = Board(folder, scenario.kind, recover=True)
        wrong = _seen_by_the_application(board, scenario)
        if unusable := opens(folder, scenario.kind):
            return wrong + unusable
        if scenario.spoiled:
            board.updater.audit()
        wrong += _whole(board) + _allowed(board, scenario, ended=ended) + _tidy(board)
        wrong += [] if scenario.spoiled else _good_blobs(board)
        if ended and not scenario.promise(board):
            wrong.append("what the act promised does not hold")
        wrong += opens_without_writing(board) + _goes_on(board, set() if known is None else known)
        wrong += _can_be_sent_again(board, OLD) if scenario.spoiled else []
    return wrong


def opens(folder: Path, kind: str) -> list[str]:
    """Return what is wrong with opening the folder, which must always be possible."""
    try:
        board = reopen(Board(folder, kind))
    except Exception as error:  # noqa: BLE001 - any error at all would keep the agent from starting
        return [f"opening fails: {error!r}"]
    status = board.updater.status()
    return [] if status.state != "damaged" else [f"the journal is damaged: {status.fault}"]


def opens_without_writing(board: Board) -> list[str]:
    """Return what another opening writes: a board that restarts for ever must not wear out its card."""
    if board.kind == "agent" and board.state() == "activated":
        return []  # its starts are counted
    before, writes = fingerprint(board.home), Writes()
    with watched(writes):
        wrong = opens(board.folder, board.kind)
    if writes.done or fingerprint(board.home) != before:
        wrong.append(f"another opening writes: {writes.done}")
    return wrong


def spoiled_files(folder: Path) -> list[str]:
    """Return the files of a bundle that are not what its name says, or that not everybody may read."""
    manifest = folder / "manifest.json"
    if not manifest.is_file() or sha256(manifest.read_bytes()) != folder.name:
        return ["manifest.json"]
    files = {name: entry["sha256"] for name, entry in json.loads(manifest.read_bytes())["files"].items()}
    files["manifest.json"] = folder.name
    return [name for name, digest in files.items() if not _is_good(folder / name, digest)]


def _is_good(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path.read_bytes()) == digest and path.stat().st_mode & 0o444 == 0o444


def _seen_by_the_application(board: Board, scenario: Scenario) -> list[str]:
    """Return what is wrong for an application that looks before any agent was started."""
    if scenario.kind == "agent":
        return []
    try:
        found = read_active(board.folder)
    except (OSError, ValueError) as error:
        return [f"the application cannot read its model: {error!r}"] if not scenario.spoiled else []
    if found["generation"] is None:
        return [] if scenario.empty else ["the application finds no model"]
    bundle = Path(found["folder"])
    wrong = (
        []
        if scenario.spoiled
        else [f"the application finds {name} spoiled" for name in spoiled_files(bundle)]
    )
    if (board.folder / "active" / "current").resolve() != bundle.resolve():
        wrong.append("the link active/current leads elsewhere")
    return wrong


def _whole(board: Board) -> list[str]:
    """Return which bundles on the board are not whole."""
    return [
        f"{NAMES.get(folder.name, folder.name)}: {name} is spoiled"
        for folder in (board.home / "bundles").iterdir()
        if not folder.name.startswith(".")
        for name in spoiled_files(folder)
    ]


def _allowed(board: Board, scenario: Scenario, *, ended: bool) -> list[str]:
    status, pair = board.updater.status(), board.pair()
    wrong = []
    allowed = (scenario.after,) if ended and scenario.after else scenario.allowed
    if pair not in allowed:
        wrong.append(f"current and previous are {pair}, not of {allowed}")
    if status.current in status.bad and status.previous and status.previous not in status.bad:
        wrong.append("the current bundle is marked bad, and there is a good one")
    if status.fault is not None:
        wrong.append(f"a fault stays: {status.fault}")
    settled = (*SETTLED, "activated") if board.kind == "agent" else SETTLED
    if status.state not in settled:
        wrong.append(f"the state stays {status.state}")
    if status.sequence < (0 if scenario.empty else 3):
        wrong.append(f"the highest sequence fell to {status.sequence}")
    return wrong


def _tidy(board: Board) -> list[str]:
    """Return what lies about that no state refers to."""
    status = board.updater.status()
    names = [path for path in board.home.rglob("*") if path.suffix == ".new" or path.name.startswith(".")]
    names += [path for path in (board.folder / "incoming").iterdir() if len(path.name) != 64]
    if status.state != "activated":  # then what to go back to is still there
        kept = {status.current, status.previous, journal.read(board.home).bundle, str(status.generation)}
        homes = (board.home / "bundles", board.home / "generations")
        names += [path for home in homes for path in home.iterdir() if path.name not in kept]
    return [f"left over: {path.relative_to(board.folder)}" for path in names]


def _good_blobs(board: Board) -> list[str]:
    homes = (board.folder / "blobs", board.folder / "scratch")
    paths = [path for home in homes for path in home.iterdir()]
    return [f"{path} is not what its name says" for path in paths if not _is_good(path, path.name)]


def _goes_on(board: Board, known: set[bytes]) -> list[str]:
    """Return why another bundle cannot be deployed now, unless this state is known to allow it."""
    settled = fingerprint(board.folder)
    if settled in known:
        return []
    fresh = Board(board.folder, board.kind, recover=True)
    if fresh.state() == "activated":
        fresh.updater.roll_back()
    other, current = OTHER[board.kind], fresh.pair()[0]
    error = attempt(lambda: fresh.deploy(other))
    if error is not None or fresh.pair() != (other.name, current):
        return [f"no other bundle can be deployed: {error!r}, current and previous are {fresh.pair()}"]
    known.add(settled)
    return spoiled_files(fresh.home / "bundles" / other.digest)


def _can_be_sent_again(board: Board, bundle: Bundle) -> list[str]:
    """Return why a bundle whose files the disk spoiled cannot be deployed, each try finding one of them."""
    fresh = Board(board.folder, board.kind, recover=True)
    error = None
    for _ in range(1 + len(bundle.files)):
        error = attempt(lambda: fresh.deploy(bundle, allow_downgrade=True))
        if error is None:
            return spoiled_files(fresh.home / "bundles" / bundle.digest)
    return [f"what was spoiled cannot be sent again: {error!r}"]


def fingerprint(folder: Path) -> bytes:
    """Return what stands for names, modes, links and contents of everything in a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(f"{path.relative_to(folder)} {_content(path)}\n".encode())
    return digest.digest()


def _content(path: Path) -> str:
    facts = path.lstat()
    if stat.S_ISLNK(facts.st_mode):
        return str(path.readlink())
    return f"{facts.st_mode} {path.read_bytes().hex()}" if stat.S_ISREG(facts.st_mode) else "folder"
