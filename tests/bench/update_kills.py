"""Kills, power cuts and failing disks at random points of updates: how often was a board not whole afterwards?

    python tests/bench/update_kills.py --count 1000 [--seed 0] [--kind daemon ...]
    python tests/bench/update_kills.py --every

Prints a table of what was tried; every violation goes to stderr, and the exit status is 1 if there was one. `--every`
leaves nothing to chance: each operation of each act, and each state that a power cut may leave but for mixtures. The
kinds on a real ext4 need root and loop devices and are left out without them.
"""

from __future__ import annotations

import argparse
import errno
import functools
import itertools
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "device_agent"))

from daemon_kills import LONGEST_S, kill_once, no_clock
from daemon_process import PACKAGE, Daemon, deploy, send_bundle
from disk_operations import watched
from ext4_disk import Ext4
from update_board import attempt
from update_faults import (
    Boards,
    Fault,
    act_on,
    carried_on,
    clone,
    die,
    held,
    in_child,
    power_cuts,
    trial,
)
from update_invariants import opens, violations
from update_scenarios import ALL, Scenario
from update_walks import Walk, explore

Trials = Iterator[list[str]]
ERRORS = (errno.EIO, errno.EROFS, errno.EDQUOT)
LENGTH = 30
BY_THE_RESERVE = (
    "commit",
    "roll back",
    "no confirmation came",
    "go back to the previous",
    "mark the current one bad",
)


def killed(boards: Boards, dice: random.Random) -> Trials:
    """Kill at an operation of an act, or in the middle of a write."""
    while True:
        scenario, step = _any_operation(boards, dice)
        fault = Fault(step, "kill" if dice.random() < 0.8 else "torn")
        yield trial(boards.prepared(scenario), boards.work, scenario, fault)


def killed_twice(boards: Boards, dice: random.Random) -> Trials:
    """Kill an act, then the process that recovers from that."""
    once = boards.work.with_name("once")
    while True:
        scenario, step = _any_operation(boards, dice)
        act_on(clone(boards.prepared(scenario), once), scenario, Fault(step, "kill"))
        opening = scenario.reopened()
        count = act_on(clone(once, boards.work), opening, None)[0]
        yield trial(once, boards.work, opening, Fault(dice.randrange(count), "kill"))


def killed_in_a_life(boards: Boards, dice: random.Random) -> Trials:
    """Kill somewhere in a long random sequence of acts."""
    for life in _lives(boards, dice):
        for step in dice.sample(range(life.ends[-1]), 10):
            scenario = life.at(step)
            yield trial(boards.prepared(scenario), boards.work, scenario, Fault(step, "kill"))


def full(boards: Boards, dice: random.Random) -> Trials:
    """Fill the disk at an operation, for good."""
    while True:
        scenario, step = _any_operation(boards, dice)
        fault = Fault(step, dice.choice(("error", "short")), errno.ENOSPC, lasting=True)
        yield trial(boards.prepared(scenario), boards.work, scenario, fault)


def failing(boards: Boards, dice: random.Random) -> Trials:
    """Have an operation fail; from there on all of them, or only this one and the same process goes on."""
    while True:
        scenario, step = _any_operation(boards, dice)
        fault = Fault(step, "error", dice.choice(ERRORS), lasting=dice.random() < 0.5)
        if fault.lasting or scenario.spoiled:
            yield trial(boards.prepared(scenario), boards.work, scenario, fault)
        else:
            yield carried_on(clone(boards.prepared(scenario), boards.work), scenario, fault)


def cut(boards: Boards, dice: random.Random) -> Trials:
    """Cut the power in an act; every legal state of the disk, each forgetting as much as it may."""
    while True:
        scenario = dice.choice(list(ALL.values()))
        yield from itertools.islice(power_cuts(boards, scenario, dice, share=0.1), 10)


def cut_in_a_life(boards: Boards, dice: random.Random) -> Trials:
    """Cut the power in a long random sequence of acts, none of whose leftovers were ever synced."""
    for life in _lives(boards, dice):
        yield from itertools.islice(power_cuts(boards, life.at(0), dice, share=0.01, at=life.at), 30)


def ext4_power_cuts(boards: Boards, dice: random.Random) -> Trials:
    """Cut the power of a real ext4 at an operation; now and then the kernel had written something back before."""
    with Ext4(boards.work.with_name("ext4")) as disk:
        while True:
            scenario, step = _any_operation(boards, dice)
            folder = clone(boards.prepared(scenario), disk.place / "state")
            disk.write_back()
            act = functools.partial(_act_until_the_power_goes, disk, folder, scenario, step, dice.random())
            in_child(act)
            disk.come_back()
            wrong = violations(folder, scenario)
            yield [f"{scenario.name}, operation {step}, ext4: {text}" for text in wrong]


def _act_until_the_power_goes(disk: Ext4, folder: Path, scenario: Scenario, step: int, seed: float) -> None:
    board, dice, numbers = held(folder, scenario), random.Random(seed), itertools.count()

    def see(_: object, perform: Callable[[], object]) -> object:
        if next(numbers) >= step:
            disk.cut_power()
            die()
        if dice.random() < 0.1:
            disk.write_back()
        return perform()

    with watched(see, sync=True):
        scenario.act(board)
    disk.cut_power()


def ext4_filled(boards: Boards, dice: random.Random) -> Trials:
    """End an update on a real ext4 without a free block: that must work, out of the agent's own reserve."""
    with Ext4(boards.work.with_name("filled")) as disk:
        while True:
            scenario = ALL[dice.choice(BY_THE_RESERVE)]
            folder = clone(boards.prepared(scenario), disk.place / "state")
            disk.fill()
            error = attempt(functools.partial(scenario.act, held(folder, scenario)))
            wrong = [f"on a full disk: {error!r}"] if error else opens(folder, scenario.kind)
            disk.empty()
            yield [f"{scenario.name}: {text}" for text in wrong + violations(folder, scenario, ended=True)]


def daemons(boards: Boards, dice: random.Random) -> Trials:
    """Kill real daemons, whose clock goes backwards, while a host updates; some while they start, too."""
    with tempfile.TemporaryDirectory(prefix="kills-") as name:
        folder = Path(name)
        daemon = Daemon(folder, PYTHONPATH=f"{no_clock(folder / 'clock')}{os.pathsep}{PACKAGE}").start()
        try:
            bundles = [send_bundle(daemon, name=each) for each in ("one", "two", "three")]
            deploy(daemon, bundles[0])
            while True:
                phase = dice.choice(list(LONGEST_S))
                yield kill_once(daemon, bundles, dice, phase, restarts=dice.choice((0, 0, 1, 3)))
        finally:
            daemon.stop(9)


KINDS: dict[str, tuple[Callable[[Boards, random.Random], Trials], float]] = {
    "killed at an operation of an act": (killed, 0.22),
    "killed, and again while recovering": (killed_twice, 0.12),
    "killed in a long random life": (killed_in_a_life, 0.15),
    "disk full from an operation on": (full, 0.12),
    "an operation fails, once or all from there on": (failing, 0.12),
    "power cut in an act, played": (cut, 0.12),
    "power cut in a long random life, played": (cut_in_a_life, 0.06),
    "power cut on a real ext4": (ext4_power_cuts, 0.05),
    "real ext4 that others have filled": (ext4_filled, 0.01),
    "real daemon killed": (daemons, 0.03),
}


def every(kind: str, error: int = 0) -> Callable[[Boards, random.Random], Trials]:
    """Return the trials of one lasting fault at each operation, or each write, of each act."""

    def trials(boards: Boards, _: random.Random) -> Trials:
        for scenario in ALL.values():
            known: set[bytes] = set()
            of_writes = kind in ("torn", "short")
            for step in boards.writes(scenario) if of_writes else range(boards.operations(scenario)):
                fault = Fault(step, kind, error, lasting=True)
                yield trial(boards.prepared(scenario), boards.work, scenario, fault, known)

    return trials


def every_cut(boards: Boards, dice: random.Random) -> Trials:
    """Cut the power after each operation of each act."""
    for scenario in ALL.values():
        yield from power_cuts(boards, scenario, dice)


EVERY: dict[str, tuple[Callable[[Boards, random.Random], Trials], float]] = {
    "killed": (every("kill"), 1),
    "killed in the middle of a write": (every("torn"), 1),
    "disk full from there on": (every("error", errno.ENOSPC), 1),
    "half a write, then a full disk": (every("short", errno.ENOSPC), 1),
    "disk dead from there on": (every("error", errno.EIO), 1),
    "disk read-only from there on": (every("error", errno.EROFS), 1),
    "power cut": (every_cut, 1),
}


def main() -> int:
    """Do as many trials as asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kind", nargs="*", default=[""], help="only kinds whose names hold one of these words"
    )
    parser.add_argument("--every", action="store_true", help="every operation instead of random ones")
    options = parser.parse_args()
    kinds = EVERY if options.every else KINDS
    chosen = {name: each for name, each in kinds.items() if any(word in name for word in options.kind)}
    whole = sum(share for _, share in chosen.values())
    print("| kind | number | violations | seconds |\n|---|---:|---:|---:|")
    totals = [0, 0, 0.0]
    for name, (make, share) in chosen.items():
        count = None if options.every else round(options.count * share / whole)
        row = _tried(make, name, count, options.seed)
        totals = [one + other for one, other in zip(totals, row, strict=True)]
        print(f"| {name} | {row[0]} | {row[1]} | {row[2]:.0f} |", flush=True)
    print(f"| all | {totals[0]} | {totals[1]} | {totals[2]:.0f} |")
    return 1 if totals[1] else 0


def _tried(make: Callable[..., Trials], name: str, count: int | None, seed: int) -> tuple[int, int, float]:
    if "ext4" in name and not Ext4.is_possible():
        return 0, 0, 0.0
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - the operations count, not the disk
    began, number, violated = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory(prefix="updates-", dir=memory) as folder:
        trials = make(Boards(Path(folder)), random.Random(f"{seed} {name}"))
        for wrong in itertools.islice(trials, count):
            number, violated = number + 1, violated + bool(wrong)
            for text in wrong:
                print(f"{name}: {text}", file=sys.stderr, flush=True)
        trials.close()
    return number, violated, time.monotonic() - began


def _any_operation(boards: Boards, dice: random.Random) -> tuple[Scenario, int]:
    scenario = dice.choice(list(ALL.values()))
    return scenario, dice.randrange(max(1, boards.operations(scenario)))


def _lives(boards: Boards, dice: random.Random) -> Iterator[Walk]:
    while True:
        yield explore(boards, dice.randrange(10**9), LENGTH)


if __name__ == "__main__":
    sys.exit(main())
