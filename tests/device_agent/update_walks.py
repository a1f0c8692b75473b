"""Long random sequences of acts on one board, for faults in the middle of a life rather than of a chosen act.

What may be current and previous after a fault is found out beforehand: the same walk is done undisturbed, and before
and after each act a copy of the folder is opened as by a fresh process.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from disk_operations import watched
from update_board import FIRST, NEW, OLD, OLDER, RIVAL, Board, Pair, attempt, crashes, reopen
from update_faults import Boards, Spoiler, clone, in_child
from update_scenarios import ALL, Scenario

from device_agent.updates import journal

ACTS: dict[str, Callable[[Board, random.Random], object]] = {
    "stage": lambda b, dice: b.stage(dice.choice((NEW, RIVAL, OLDER, OLD, FIRST)), allow_downgrade=True),
    "check": lambda b, dice: _check(b, ok=dice.random() < 0.9),
    "activate": lambda b, dice: b.updater.activate(_at_hand(b), confirm=dice.random() < 0.3),
    "commit": lambda b, dice: b.updater.commit(_at_hand(b), confirmed=dice.random() < 0.5),
    "back": lambda b, dice: b.updater.roll_back(to_previous=dice.random() < 0.5),
    "bad": lambda b, dice: b.updater.mark_bad(dice.choice((NEW, RIVAL, OLD, FIRST)).digest, "why"),
    "forgive": lambda b, dice: b.updater.forgive(dice.choice((NEW, RIVAL, OLD, FIRST)).digest),
    "crash": lambda b, dice: crashes(b, dice.randrange(3)),
    "collect": lambda b, dice: b.store.collect([]),
    "audit": lambda b, dice: b.updater.audit(),
}
LIKELY = ("stage", "check", "activate", "commit") * 4 + tuple(ACTS)


def _at_hand(board: Board) -> str:
    return journal.read(board.home).bundle or NEW.digest


def _check(board: Board, *, ok: bool) -> None:
    bundle = _at_hand(board)
    board.updater.begin_check(bundle)
    board.updater.end_check(bundle, ok=ok)


def walk(board: Board, seed: int, length: int, between: Callable[[Board], None]) -> None:
    """Do random acts; those that are refused do nothing. Now and then the process ends and another one begins."""
    dice = random.Random(seed)
    between(board)
    for _ in range(length):
        if dice.random() < 0.1:
            board = reopen(board)
        act = ACTS[dice.choice(LIKELY)]
        attempt(lambda act=act, at=board: act(at, dice))
        between(board)


@dataclass(frozen=True)
class Walk:
    """One walk: how many operations had been done at each act's end, and what a fresh process then finds."""

    seed: int
    length: int
    ends: list[int]
    settled: list[Pair]

    def at(self, step: int) -> Scenario:
        """Return the scenario of a fault at one operation."""
        after = min(bisect_left(self.ends, step), len(self.ends) - 1)
        allowed = tuple({self.settled[max(0, after - 1)], self.settled[after]})
        return Scenario(f"long life {self.seed}", self.go, allowed=allowed)

    def go(self, board: Board) -> None:
        """Do it again."""
        walk(board, self.seed, self.length, lambda _: None)


def explore(boards: Boards, seed: int, length: int) -> Walk:
    """Do a walk undisturbed."""
    base, aside = clone(boards.prepared(ALL["stage"]), boards.work), boards.work.with_name("aside")
    ends, settled = in_child(lambda: _explore(base, aside, seed, length))
    return Walk(seed, length, ends, settled)


def _explore(base: Path, aside: Path, seed: int, length: int) -> tuple[list[int], list[Pair]]:
    ends, settled, spoiler = [], [], Spoiler()

    def note(board: Board) -> None:
        count = spoiler.count
        settled.append(reopen(Board(clone(board.folder, aside))).pair())
        spoiler.count = count
        ends.append(count)

    board = Board(base)
    board.updater.status()
    with watched(spoiler):
        walk(board, seed, length, note)
    return ends, settled
