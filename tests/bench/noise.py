"""What a deploy makes of a device on which others are busy, and what is true of its verdict.

    python tests/bench/noise.py --folder DIR [--loops 0 1 2 4] [--repeats 3] [--again 6] [--budget 60%] [--seconds 2]

Device "local", beside so many processes that only count: for each number of them the real command deploys a small
residual network (`tests/deploy/deploy_home.py`), each time in a home of its own. Afterwards, with these processes gone,
dense and slimmed model are timed in turns, which says what share of the budget the model really takes. Then the dense
model is measured several times beside as many, each time in a process of its own. Prints Markdown; `--seconds` is the
protocol's `min_duration_s`. Deploys that are in DIR already are not made again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "deploy"))

import numpy as np
import onnxruntime
from deploy_home import Home, make_home
from pydantic import TypeAdapter

from pipeline.device.registry import open_device
from pipeline.files import sha256
from pipeline.measurement import Measurement
from pipeline.noise import doubt, spread
from pipeline.profile import load_profile, parse_budget

COUNTING = "while True: pass"
PAIRS, RUNS = 15, 100
Result = dict[str, Any]


def main() -> None:
    """Deploy beside more and more busy processes and print a line for each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--loops", nargs="+", type=int, default=[0, 1, 2, 4])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--again", type=int, default=6)
    parser.add_argument("--budget", default="60%")
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    print(
        f"{os.cpu_count()} cores, load before {os.getloadavg()[0]:.1f}, budget latency={options.budget}\n\n"
        "| busy | ended | models measured | dense: ms | ±, % | others, % | flags | used of the budget, % "
        "| ±, % | in truth, % | said of it |\n|---:|---|---:|---:|---:|---:|---|---:|---:|---:|---|"
    )
    for loops in options.loops:
        for repeat in range(options.repeats):
            home = _home(options.folder / f"{loops} {repeat}", options.seconds)
            result = _deployed(home, loops, options.budget)
            print(_line(home, loops, options.budget, result), flush=True)
    print(
        "\n| busy | dense: ms | from process to process, ±, % | a process says of itself, ±, % | others, % "
        "| memory peak, MB |\n|---:|---:|---:|---:|---:|---:|"
    )
    for loops in options.loops:
        home = _home(options.folder / f"{options.loops[0]} 0", options.seconds)
        print(_again(home, loops, options.again), flush=True)


def _home(folder: Path, seconds: float) -> Home:
    home = make_home(folder)
    profile = home.profile.read_text().replace("min_duration_s = 0.5", f"min_duration_s = {seconds:g}")
    home.profile.write_text(profile)
    return home


@contextmanager
def _busy(loops: int) -> Iterator[None]:
    started = [subprocess.Popen([sys.executable, "-c", COUNTING]) for _ in range(loops)]
    try:
        time.sleep(1)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def _deployed(home: Home, loops: int, budget: str) -> Result:
    target = home.folder / "result.json"
    if not target.exists():
        with _busy(loops):
            done = home.run_deploy("--budget", f"latency={budget}", "--json", str(target))
        if done.returncode not in {0, 3}:
            raise SystemExit(done.stdout + done.stderr)
    result: Result = json.loads(target.read_text())
    return result


def _line(home: Home, loops: int, budget: str, result: Result) -> str:
    """Return what was measured, what is true, and what is said of it."""
    end = result["reached"] or result["nearest"]
    dense = _measurement(result["baseline"])
    alike = [_measurement(each) for each in result["candidates"] if each["widths"] == end["widths"]]
    limit = parse_budget(f"latency={budget}").resolve(dense)
    last = _measurement(end)
    files = {sha256(path): path for path in home.folder.rglob("*.onnx")}
    true = _ratio(files[dense.file_sha256], files[last.file_sha256]) * dense.latency_ms.p50 / limit.value
    flags = sorted({flag for each in (dense, *alike) for flag in each.flags})
    cells = (
        loops,
        result["status"],
        result["device_measurements"],
        f"{dense.latency_ms.p50:.4f}",
        f"{100 * spread([dense]):.1f}",
        f"{100 * max(each.during.others_share or 0.0 for each in (dense, *alike)):.0f}",
        ", ".join(flags) or "none",
        f"{100 * last.latency_ms.p50 / limit.value:.1f}",
        f"{100 * spread(alike):.1f}",
        f"{100 * true:.1f}",
        doubt(alike, [limit]) or "nothing",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _again(home: Home, loops: int, times: int) -> str:
    """Measure the dense model again and again; return what differs."""
    dense = _measurement(json.loads((home.folder / "result.json").read_text())["baseline"])
    file = next(path for path in home.folder.rglob("*.onnx") if sha256(path) == dense.file_sha256)
    profile = load_profile(str(home.profile))
    with _busy(loops), open_device("local") as device:
        made = [
            device.measure(file, runtime=profile.runtime, threads=profile.threads, protocol=profile.measuring)
            for _ in range(times)
        ]
    medians = [each.latency_ms.p50 for each in made]
    middle = statistics.median(medians)
    peaks = [(each.model_peak_bytes or 0) / 1e6 for each in made]
    cells = (
        loops,
        f"{min(medians):.4f} to {max(medians):.4f}",
        f"{50 * (max(medians) - min(medians)) / middle:.1f}",
        f"{100 * statistics.median(spread([each]) for each in made):.1f}",
        f"{100 * statistics.median(each.during.others_share or 0.0 for each in made):.0f}",
        f"{min(peaks):.2f} to {max(peaks):.2f}",
    )
    return f"| {' | '.join(map(str, cells))} |"


def _measurement(candidate: Result) -> Measurement:
    return TypeAdapter(Measurement).validate_python(candidate["measurement"])


def _ratio(dense: Path, slimmed: Path) -> float:
    """Return the latency of the second file over the first's: median of pairs that were timed in turns."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    sessions = [onnxruntime.InferenceSession(str(path), options) for path in (dense, slimmed)]
    ratios = []
    for _ in range(PAIRS):
        first, second = (_median_s(session) for session in sessions)
        ratios.append(second / first)
    return statistics.median(ratios)


def _median_s(session: onnxruntime.InferenceSession) -> float:
    (given,) = session.get_inputs()
    feed = {given.name: np.zeros(given.shape, np.float32)}
    times = []
    for _ in range(RUNS):
        begin = time.perf_counter()
        session.run(None, feed)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


if __name__ == "__main__":
    main()
