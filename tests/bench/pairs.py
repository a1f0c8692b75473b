"""Our time against Torch-Pruning's in pairs: both on the same model, in one process, turn by turn.

    python tests/bench/pairs.py --out FOLDER [--repeats 5]

Looks at the models that `zoo.py` found Torch-Pruning to finish rightly, in FOLDER, and writes FOLDER/pairs.csv. Seconds
are processor seconds of one thread, the medians of the repeats; ours are those beyond torch.export.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path

import ours_column
import torch
import torch_pruning_column
from export_clock import ExportClock
from zoo_catalogue import Subject, build

import pipeline

LARGEST = 60_000_000  # parameters: the differences are in the small ones


def main() -> None:
    """Measure each model in a process of its own and print what was slower."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one, options.repeats)))
        return
    rows = []
    with (options.out / "pairs.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["model", "ours_s", "torch_pruning_s", "ratio"])
        for name in finished(options.out):
            command = [sys.executable, __file__, "--out", str(options.out), "--repeats", str(options.repeats)]
            done = subprocess.run(
                [*command, "--one", name], capture_output=True, text=True, timeout=600, check=False
            )
            if done.returncode:
                print(f"{name}: {done.stderr.strip().splitlines()[-1]}")
                continue
            ours, theirs = json.loads(done.stdout.splitlines()[-1])
            rows.append((ours / theirs, name, ours, theirs))
            writer.writerow([name, f"{ours:.4f}", f"{theirs:.4f}", f"{ours / theirs:.3f}"])
            stream.flush()
    ratios = [ratio for ratio, *_ in rows]
    slower = sorted((row for row in rows if row[0] > 1.0), reverse=True)
    print(
        f"{len(rows)} models; ours / Torch-Pruning: median {statistics.median(ratios):.2f}; slower on {len(slower)}"
    )
    for ratio, name, ours, theirs in slower:
        print(f"  {name}: {1000 * ours:.0f} ms against {1000 * theirs:.0f} ms ({ratio:.2f})")


def finished(folder: Path) -> list[str]:
    """Return the models on which Torch-Pruning's last result is right, the smallest first."""
    last = {}
    for line in (folder / "results.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["column"] == "torch-pruning":
            last[record["model"]] = record
    right = [each for each in last.values() if each["ok"] and each["parameters_before"] <= LARGEST]
    return [each["model"] for each in sorted(right, key=lambda each: each["parameters_before"])]


def measure(name: str, repeats: int) -> tuple[float, float]:
    """Return the median seconds of both, each time on a fresh copy of the model."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    clock = ExportClock()
    ours_column.warm_up()
    torch_pruning_column.warm_up(0.5)
    subject = build(name, None)
    ours, theirs = [], []
    for _ in range(repeats):
        inputs = subject.inputs(1)
        model = copy.deepcopy(subject.model)
        clock.spent, begun = 0.0, time.process_time()
        graph = pipeline.trace(model, inputs)
        pipeline.slim(model, pipeline.uniform_plan(graph, keep=0.5))
        ours.append(time.process_time() - begun - clock.spent)
        other = Subject(copy.deepcopy(subject.model), subject.inputs, subject.outputs)
        begun = time.process_time()
        torch_pruning_column.prune(other, inputs, 0.5)
        theirs.append(time.process_time() - begun)
    return statistics.median(ours), statistics.median(theirs)


if __name__ == "__main__":
    main()
