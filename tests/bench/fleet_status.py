"""How long `pipeline status` of a fleet takes, and one request on a channel that is open; all boards on loopback.

    python tests/bench/fleet_status.py [--boards 20] [--repeats 5] [--requests 1000]

Each board is an SSH server and an agent of their own, twenty times on this computer. `pipeline status` is timed as a
user waits for it: a new process, every board connected to, logged in to and asked. A request is timed from the call to
its answer on a connection that stays. Prints markdown tables; exit status 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from ssh_boards import ROOT, Board, Key, address_of, board, client_of, work_folder

from pipeline.device.client import DeviceClient

TARGET_S, TARGET_MS = 5.0, 1.0


def main() -> None:
    """Start the boards, time both, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--boards", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1000)
    options = parser.parse_args()
    with work_folder() as (folder, key), ExitStack() as stack:
        boards = [stack.enter_context(board(key)) for _ in range(options.boards)]
        environment = home_of(folder, boards, key)
        took = [status(environment, options.boards) for _ in range(options.repeats + 1)][1:]
        print("| `pipeline status` of | median, s | slowest, s | target, s |\n|---|---:|---:|---:|")
        print(f"| {options.boards} boards | {statistics.median(took):.2f} | {max(took):.2f} | {TARGET_S} |\n")
        with client_of(address_of(boards[0], key)) as device:
            print("| request | p50, ms | p95, ms | target for p50, ms |\n|---|---:|---:|---:|")
            middles = [request(device, method, options.requests) for method in ("active", "status")]
    sys.exit(max(took) > TARGET_S or middles[0] > TARGET_MS)


def home_of(folder: Path, boards: list[Board], key: Key) -> dict[str, str]:
    """Write a registry of the boards; return the environment in which `pipeline` finds it."""
    devices = folder / "config" / "pipeline" / "devices"
    devices.mkdir(parents=True)
    for number, one in enumerate(boards):
        address = address_of(one, key)
        lines = {
            "transport": "ssh",
            "profile": "rpi4",
            "host": address.host,
            "user": address.user,
            "identity": str(address.identity),
            "host_key": address.host_key,
        }
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items())
        (devices / f"board{number}.toml").write_text(f"{text}port = {address.port}\n")
    places = {"HOME": folder, "XDG_CONFIG_HOME": folder / "config", "XDG_STATE_HOME": folder / "state"}
    kept = {name: value for name, value in os.environ.items() if name != "SSH_AUTH_SOCK"}
    return {**kept, **{name: str(path) for name, path in places.items()}, "PYTHONPATH": str(ROOT)}


def status(environment: dict[str, str], count: int) -> float:
    """Ask all boards, as a user does; return the seconds it took."""
    begun = time.perf_counter()
    command = [sys.executable, "-m", "pipeline", "status", "--device", "board*", "--json", "-"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    took = time.perf_counter() - begun
    assert done.returncode == 0, done.stderr
    assert sum(each["ok"] for each in json.loads(done.stdout)["devices"]) == count
    return took


def request(device: DeviceClient, method: str, count: int) -> float:
    """Make a request often and print its line; return the median in ms."""
    times = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        device._link.start(method, {}).result(10.0)
        times.append((time.perf_counter_ns() - begun) / 1e6)
    middle = statistics.median(times)
    late = statistics.quantiles(times, n=20)[18]
    print(f"| {method} | {middle:.3f} | {late:.3f} | {TARGET_MS if method == 'active' else ''} |")
    return middle


if __name__ == "__main__":
    main()
