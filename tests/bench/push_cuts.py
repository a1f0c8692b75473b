"""Pushes whose link is cut at a random byte: do all of them resume by themselves and end whole?

    python tests/bench/push_cuts.py [--cuts 100] [--mb 4] [--seed 0]

Every push goes through a proxy that resets the connection after a random number of bytes, from the first byte after
the login to the last of the file. The file on the board is then compared with the one that was sent. Prints a markdown
table; exit status 1 if a push failed or a file differs.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from ssh_boards import Board, FlakyProxy, Key, address_of, board, client_of, new_file, work_folder

from pipeline.device.retry import Patience
from pipeline.errors import PipelineError

QUICK = Patience(tries=8, first_s=0.02, longest_s=0.1)


@dataclass(frozen=True)
class Outcome:
    """How one push went: what went wrong, bytes on the wire beyond those of the file, seconds, whether it was cut."""

    fault: str
    twice: int
    seconds: float
    cut: bool


def main() -> None:
    """Cut as often as asked and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--mb", type=int, default=4, help="size of each file")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance, size = random.Random(options.seed), options.mb * 1_000_000
    outcomes = []
    with work_folder() as (folder, key), board(key) as one, FlakyProxy(one.server.port) as proxy:
        while sum(each.cut for each in outcomes) < options.cuts:
            offset = 1 + chance.randrange(size)
            outcome = cut_push(one, key, proxy, new_file(folder / "file", size), offset)
            outcomes.append(outcome)
            if outcome.fault:
                print(f"cut after {offset} bytes: {outcome.fault}", file=sys.stderr)
    faults = [each for each in outcomes if each.fault]
    twice = [each.twice for each in outcomes if each.cut]
    print("| pushes of | cut | whole at the end | sent twice, median | at most | seconds, median |")
    print("|---:|---:|---:|---:|---:|---:|")
    print(
        f"| {options.mb} MB | {len(twice)} | {len(outcomes) - len(faults)} of {len(outcomes)} "
        f"| {statistics.median(twice) / 1e6:.2f} MB | {max(twice) / 1e6:.2f} MB "
        f"| {statistics.median(each.seconds for each in outcomes):.2f} |"
    )
    sys.exit(bool(faults))


def cut_push(one: Board, key: Key, proxy: FlakyProxy, path: Path, offset: int) -> Outcome:
    """Push a file over a link that is cut after so many bytes, and look at what is on the board."""
    begun, cuts = time.perf_counter(), proxy.cuts
    try:
        with client_of(address_of(one, key, proxy.port), QUICK) as device:
            before, proxy.cut_after = proxy.sent, offset
            device.push([path])
            twice = proxy.sent - before - path.stat().st_size
    except PipelineError as error:
        return Outcome(str(error), 0, time.perf_counter() - begun, proxy.cuts > cuts)
    proxy.cut_after = None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    stored = one.daemon.state / "blobs" / digest
    whole = stored.is_file() and hashlib.sha256(stored.read_bytes()).hexdigest() == digest
    stored.unlink(missing_ok=True)
    fault = "" if whole else "the file on the board is not the one that was sent"
    return Outcome(fault, twice, time.perf_counter() - begun, proxy.cuts > cuts)


if __name__ == "__main__":
    main()
