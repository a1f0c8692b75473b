"""Makes the disk or the process fail at one chosen operation of an update, and looks at what is left afterwards.

To be killed after an operation is to be killed before the next one, so `Fault.step` goes from before the first
operation to behind the last.
"""

from __future__ import annotations

import errno
import os
import pickle
import random
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from disk_operations import REAL, Operation, Perform, watched
from power_cut import Disk, Recorder, materialise, states
from update_board import OTHER, Board, attempt, make_base
from update_invariants import opens, violations
from update_scenarios import Scenario

from device_agent.active import read_active

At = Callable[[int], Scenario]
KILLED = "killed"
FULL = (errno.ENOSPC, errno.EDQUOT)
_TAKES_BLOCKS = ("create", "write", "mkdir", "symlink")
_TAKES_SPACE = (*_TAKES_BLOCKS, "fsync", "rename", "link")


@dataclass(frozen=True)
class Fault:
    """What happens at operation number `step`.

    Args:
        step: counted from 0.
        kind: "kill" (before it), "torn" (half of the write, then killed), "error", or "short" (half of the write,
            then the error).
        error: the error's number. A full disk fails only what takes space, at or after `step`.
        lasting: every operation from there on fails, else only one.
    """

    step: int
    kind: str
    error: int = 0
    lasting: bool = False

    def __str__(self) -> str:
        name = f" {errno.errorcode[self.error]}" if self.error else ""
        return f"{self.kind}{name}{' for good' if self.lasting else ''} at operation {self.step}"


class Spoiler:
    """Counts operations and does the fault's harm; without a fault it only counts."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.fault = fault
        self.count = 0
        self.harmed = 0

    def __call__(self, operation: Operation, perform: Perform) -> Any:
        number, self.count = self.count, self.count + 1
        fault = self.fault
        if fault is None or number < fault.step:
            return perform()
        if fault.kind == "kill":
            die()
        if not self._is_hit(operation):
            return perform()
        self.harmed += 1
        if fault.kind in ("torn", "short") and self.harmed == 1 and operation.kind == "write":
            written = perform(operation.data[: len(operation.data) // 2])
            if fault.kind == "torn":
                die()
            return written
        if fault.kind == "torn":
            die()
        raise OSError(fault.error, os.strerror(fault.error), operation.path)

    def _is_hit(self, operation: Operation) -> bool:
        assert self.fault
        if self.harmed and not self.fault.lasting and self.fault.kind == "error":
            return False
        return self.fault.error not in FULL or operation.kind in _TAKES_SPACE


class FilledDisk:
    """A disk on which others left no room: what is written must first be made room for."""

    def __init__(self) -> None:
        self.free = 0

    def __call__(self, operation: Operation, perform: Perform) -> Any:
        path = Path(operation.path)
        if operation.kind == "unlink" and path.is_file() and not path.is_symlink():
            self.free += path.stat().st_size
        wanted = max(len(operation.data), 1) if operation.kind in _TAKES_BLOCKS else 0
        if wanted > self.free:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), operation.path)
        self.free -= wanted
        return perform()


def die() -> None:
    """End this process as a power cut or the kernel would: at once."""
    REAL["kill"](os.getpid(), signal.SIGKILL)


def in_child(function: Callable[[], Any]) -> Any:
    """Return what a function returns in a forked process, or `KILLED`."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        try:
            answer = (True, function())
        except BaseException:  # noqa: BLE001 - told to the parent
            answer = (False, traceback.format_exc())
        with os.fdopen(writer, "wb") as stream:
            pickle.dump(answer, stream)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGKILL:
        return KILLED
    well, answer = pickle.loads(said)  # noqa: S301 - from our own child
    assert well, answer
    return answer


def clone(source: Path, target: Path) -> Path:
    """Copy a state folder, hard links included."""
    shutil.rmtree(target, ignore_errors=True)
    copied: dict[int, str] = {}

    def copy(path: str, place: str) -> None:
        inode = Path(path).stat().st_ino
        if inode in copied:
            Path(place).hardlink_to(copied[inode])
        else:
            copied[inode] = shutil.copy2(path, place)

    shutil.copytree(source, target, symlinks=True, copy_function=copy)
    return target


class Boards:
    """The folders that scenarios begin with, each made once in `folder`; `work` is where they are spoiled."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self._folder = folder
        self._operations: dict[str, int] = {}

    def prepared(self, scenario: Scenario) -> Path:
        """Return the folder as it is just before the act."""
        place = self._folder / scenario.name.replace(" ", "-")
        if not place.exists():
            in_child(lambda: self._prepare(scenario, place))
        return place

    def operations(self, scenario: Scenario) -> int:
        """Return how many operations the act takes when nothing fails."""
        if scenario.name not in self._operations:
            count, wrong = act_on(clone(self.prepared(scenario), self.work), scenario, None)
            assert wrong == [], scenario.name
            self._operations[scenario.name] = int(count)
        return self._operations[scenario.name]

    def writes(self, scenario: Scenario) -> list[int]:
        """Return which of the operations are writes."""
        recorder = recorded(clone(self.prepared(scenario), self.work), scenario)
        done = zip(recorder.operations, recorder.tried, strict=True)
        return [number - 1 for operation, number in done if operation.kind == "write"]

    def _prepare(self, scenario: Scenario, place: Path) -> None:
        base = self._folder / f"base-{scenario.kind}"
        with watched(Spoiler()):
            if scenario.empty:
                place.mkdir()
                return
            if not base.exists():
                make_base(base, scenario.kind)
            scenario.before(Board(clone(base, place), scenario.kind))


def act_on(folder: Path, scenario: Scenario, fault: Fault | None) -> Any:
    """Do the scenario's act under a fault in a child; returns `KILLED` or (operations, what was wrong meanwhile)."""

    def act() -> tuple[int, list[str]]:
        board = held(folder, scenario)
        spoiler = Spoiler(fault)
        with watched(spoiler):
            error = attempt(lambda: scenario.act(board))
            wrong = _while_it_lasts(folder, scenario) if fault else []
        if fault is None and error is not None:
            wrong.append(f"the act failed: {error!r}")
        return spoiler.count, wrong

    return in_child(act)


def carried_on(folder: Path, scenario: Scenario, fault: Fault) -> Any:
    """Do the act under a fault that passes; the same process must then be able to deploy another bundle."""

    def act() -> list[str]:
        board = held(folder, scenario)
        with watched(Spoiler(fault)):
            attempt(lambda: scenario.act(board))
        with watched(Spoiler()):
            error = attempt(board.updater.roll_back) or attempt(lambda: board.deploy(OTHER[scenario.kind]))
        current = board.pair()[0]
        if error is not None or current != OTHER[scenario.kind].name:
            return [f"the same process cannot deploy once the fault is gone: {error!r}, current is {current}"]
        return []

    return in_child(act)


def trial(
    prepared: Path, work: Path, scenario: Scenario, fault: Fault, known: set[bytes] | None = None
) -> list[str]:
    """Return what is wrong after a fault: of the disk while it failed, and of what is found afterwards."""
    folder = clone(prepared, work)
    done = act_on(folder, scenario, fault)
    wrong = [] if done == KILLED else list(done[1])
    wrong += violations(folder, scenario, known=known)
    return [f"{scenario.name}, {fault}: {text}" for text in wrong]


def recorded(folder: Path, scenario: Scenario) -> Recorder:
    """Do the scenario's act in a child; return what it did to the disk."""

    def act() -> Recorder:
        board, recorder = held(folder, scenario), Recorder()
        with watched(recorder):
            scenario.act(board)
        return recorder

    found: Recorder = in_child(act)
    return found


def power_cuts(
    boards: Boards, scenario: Scenario, dice: random.Random, share: float = 1.0, at: At | None = None
) -> Iterator[list[str]]:
    """Cut the power after each operation of an act; yield what is wrong in each state that may be left.

    Args:
        boards: what to begin with.
        scenario: whose act.
        dice: for what is left to chance.
        share: of the states, how many to look at.
        at: tells what is allowed after so many operations; by default what the scenario allows.
    """
    work, place = clone(boards.prepared(scenario), boards.work), boards.work.with_name("cut")
    disk, recorder, known = Disk(work), recorded(work, scenario), set()
    for step, names, content in states(disk, recorder, dice, samples=2, share=share):
        ended = step == len(recorder.operations)
        allowed = scenario if at is None else at(recorder.tried[step - 1] if step else 0)
        materialise(disk.root, place, names, content)
        wrong = violations(place, allowed, ended=ended, known=known)
        yield [f"{scenario.name}, power cut after operation {step}: {text}" for text in wrong]


def held(folder: Path, scenario: Scenario) -> Board:
    """Return the board, opened as by a process that has had it open for long unless the act itself opens it."""
    board = Board(folder, scenario.kind)
    if not scenario.opens:
        board.updater.status()
    return board


def _while_it_lasts(folder: Path, scenario: Scenario) -> list[str]:
    """Return what is wrong while the disk still fails: an agent must start, and the application have its model."""
    if scenario.empty:
        return []
    wrong = opens(folder, scenario.kind)
    if scenario.kind == "model" and not scenario.spoiled:
        try:
            read_active(folder)
        except OSError as error:
            wrong.append(f"the application cannot read its model: {error}")
    return wrong
