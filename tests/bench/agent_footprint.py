"""What the idle daemon costs: memory, start, processor time, and how quickly it answers.

    python tests/bench/agent_footprint.py [--python /usr/bin/python3 ...] [--seconds 30]

Each Python starts the agent as the unit file does (`device-agent launch`, from a tree with byte code), on an empty
state folder. Prints a
markdown table: seconds until the first status is answered, resident memory at rest after 1,000 requests, processor
time at rest as a share of one core, the median and the 99th percentile of a status call over the open socket, and the
same through the bridge that SSH opens (`device-agent stdio`).
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from device_agent import wire
from device_agent.errors import RequestError
from device_agent.serve.bridge import connect
from device_agent.serve.client import Client

PACKAGE = Path(__file__).resolve().parents[2]
CALLS = 1000


def main() -> None:
    """Measure every Python that was named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--python", nargs="+", default=[sys.executable])
    parser.add_argument("--seconds", type=float, default=30.0, help="how long it is watched at rest")
    options = parser.parse_args()
    print(
        "| Python | first answer, s | MB at rest (anonymous) | % of a core | status p50 / p99, ms | by the bridge |"
    )
    print("|---|---|---|---|---|---|")
    for python in options.python:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(PACKAGE / "device_agent", Path(folder) / "tree" / "device_agent")
            subprocess.run([python, "-m", "compileall", "-q", folder], check=True)
            row = measure(python, Path(folder), watched_s=options.seconds)
        print(f"| {row} |", flush=True)


def measure(python: str, folder: Path, watched_s: float) -> str:
    """Start the daemon, ask it, watch it at rest, end it; return a row of the table."""
    path = folder / "agent.sock"
    place = ["--state", str(folder / "state"), "--socket", str(path)]
    command = [python, "-m", "device_agent", "launch", *place]
    environment = {**os.environ, "PYTHONPATH": str(folder / "tree"), "MALLOC_ARENA_MAX": "1"}
    begin = time.perf_counter()
    with subprocess.Popen(command, env=environment, cwd="/", stderr=subprocess.DEVNULL) as process:
        try:
            client = _connected(path)
            client.ask("status")
            started = time.perf_counter() - begin
            direct = [_timed(lambda: client.ask("status")) for _ in range(CALLS)]
            bridged = _through_the_bridge(python, path, environment)
            client.close()
            time.sleep(1.0)
            spent, resident, anonymous = _at_rest(process.pid, watched_s)
        finally:
            process.terminate()
    version = subprocess.run([python, "-V"], capture_output=True, text=True, check=True).stdout.split()[1]
    share = 100 * spent / watched_s
    return (
        f"{version} | {started:.2f} | {resident / 1e6:.1f} ({anonymous / 1e6:.1f}) | {share:.3f} | "
        f"{_p(direct, 50):.2f} / {_p(direct, 99):.2f} | {_p(bridged, 50):.2f} / {_p(bridged, 99):.2f}"
    )


def _connected(path: Path) -> Client:
    while True:
        try:
            return Client(connect(path))
        except RequestError:
            time.sleep(0.002)


def _through_the_bridge(python: str, path: Path, environment: dict[str, str]) -> list[float]:
    command = [python, "-m", "device_agent", "stdio", "--socket", str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, cwd="/", stdin=pipe, stdout=pipe) as bridge:
        assert bridge.stdin
        assert bridge.stdout
        source, sink = bridge.stdout, bridge.stdin
        wire.write_frame(sink, {"hello": {"protocols": [wire.PROTOCOL]}})
        wire.read_frame(source)

        def ask() -> None:
            wire.write_frame(sink, {"id": 1, "method": "status"})
            wire.read_frame(source)

        found = [_timed(ask) for _ in range(CALLS)]
        sink.close()
    return found


def _timed(act: object) -> float:
    begin = time.perf_counter()
    act()  # type: ignore[operator]
    return (time.perf_counter() - begin) * 1e3


def _p(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def _at_rest(pid: int, seconds: float) -> tuple[float, int, int]:
    """Return processor seconds over a while, resident and anonymous bytes at its end."""
    before = _schedstat(pid)
    time.sleep(seconds)
    after = _schedstat(pid)
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return after - before, _kib(fields["VmRSS"]), _kib(fields["RssAnon"])


def _schedstat(pid: int) -> float:
    """Return the processor seconds of all threads, in nanosecond resolution."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _kib(text: str) -> int:
    return int(text.split(maxsplit=1)[0]) * 1024


if __name__ == "__main__":
    main()
