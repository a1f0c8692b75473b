"""How fast a push over SSH is, against OpenSSH's own `scp` of the same file, pair by pair on loopback.

    python tests/bench/push_rate.py [--pairs 9] [--mb 50]

Each of a pair sends the same bytes to the same server, from nothing to a whole file: with the connection, the login and
the end of it; our side also hashes the file, and the board hashes what came and has the disk keep it. Which comes first
changes from pair to pair. Then a bundle is pushed twice, the second time with another model: what is sent? Prints a
markdown table; exit status 1 if the median rate is below 0.9 of scp's.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from ssh_boards import USER, Board, Key, address_of, board, client_of, new_file, work_folder

TARGET = 0.9


def main() -> None:
    """Measure the pairs and the second push, and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--mb", type=int, default=50, help="size of the file")
    options = parser.parse_args()
    with work_folder() as (folder, key), board(key) as one:
        (folder / "known_hosts").write_text(f"[127.0.0.1]:{one.server.port} {one.server.host_key}\n")
        pushes, copies = [], []
        for pair in range(options.pairs + 1):
            path = new_file(folder / "file", options.mb * 1_000_000)
            for ours in (True, False) if pair % 2 else (False, True):
                seconds = push(one, key, path) if ours else scp(one, key, path)
                if pair:  # the first pair warms up
                    (pushes if ours else copies).append(options.mb / seconds)
        ratio = statistics.median(pushes) / statistics.median(copies)
        print(f"{options.mb} MB, {options.pairs} pairs\n")
        print("| | median, MB/s | each |\n|---|---:|---|")
        for name, rates in (("push", pushes), ("scp", copies)):
            print(
                f"| {name} | {statistics.median(rates):.1f} | {' '.join(f'{rate:.1f}' for rate in rates)} |"
            )
        print(f"\nratio of medians: {ratio:.2f} (at least {TARGET})\n")
        second_push(one, key, folder)
    sys.exit(ratio < TARGET)


def push(one: Board, key: Key, path: Path) -> float:
    """Push a file; return the seconds it took."""
    begun = time.perf_counter()
    with client_of(address_of(one, key)) as device:
        report = device.push([path])
    took = time.perf_counter() - begun
    assert report.sent_bytes == path.stat().st_size
    return took


def scp(one: Board, key: Key, path: Path) -> float:
    """Copy a file with scp; return the seconds it took."""
    target = one.server.home / "copy"
    target.unlink(missing_ok=True)
    settings = [
        f"UserKnownHostsFile={path.parent / 'known_hosts'}",
        "StrictHostKeyChecking=yes",
        "BatchMode=yes",
    ]
    words = [word for each in settings for word in ("-o", each)]
    command = [
        "scp",
        "-q",
        "-F",
        "/dev/null",
        "-P",
        str(one.server.port),
        "-i",
        str(key.path),
        *words,
        str(path),
    ]
    begun = time.perf_counter()
    subprocess.run([*command, f"{USER}@127.0.0.1:{target}"], check=True)
    took = time.perf_counter() - begun
    assert target.stat().st_size == path.stat().st_size
    return took


def second_push(one: Board, key: Key, folder: Path) -> None:
    """Push five files twice, one of them changed in between."""
    files = [new_file(folder / f"part{number}", 2_000_000) for number in range(5)]
    print("| push | sent, bytes | files that were there |\n|---|---:|---:|")
    for what in ("first", "unchanged", "one file changed"):
        if what == "one file changed":
            new_file(files[3], 1_234_567)
        with client_of(address_of(one, key)) as device:
            report = device.push(files)
        print(f"| {what} | {report.sent_bytes} | {report.skipped_files} of {len(files)} |")
    assert (report.sent_bytes, report.skipped_files) == (1_234_567, 4)


if __name__ == "__main__":
    main()
