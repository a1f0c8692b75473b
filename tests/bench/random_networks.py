"""Slim thousands of random networks and prove each: none may be off, none may fail.

    python tests/bench/random_networks.py --count 2000 --start 0 --jobs 2 --csv random_networks.csv

A network is given by its seed. Results are appended to the CSV file; a run goes on where the last one ended,
and `--again` repeats those that did not pass. Prints what did not pass, and a summary; exits 1 if any did not.
"""

from __future__ import annotations

import argparse
import copy
import csv
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "prune")]
FIELDS = ["seed", "passed", "off", "groups", "before", "after", "form", "seconds", "stages", "fault"]
Record = dict[str, Any]


def main() -> int:
    """Run the networks asked for that have no result yet; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--csv", type=Path, default=Path("random_networks.csv"))
    parser.add_argument("--again", action="store_true", help="repeat those that did not pass")
    given = parser.parse_args()
    seeds = range(given.start, given.start + given.count)
    done = {seed: one for seed, one in read(given.csv).items() if one["passed"] == "True" or not given.again}
    write(given.csv, done.values())
    os.environ["OMP_NUM_THREADS"] = "1"
    with (
        multiprocessing.get_context("spawn").Pool(given.jobs) as pool,
        given.csv.open("a", newline="") as file,
    ):
        table = csv.DictWriter(file, FIELDS)
        for record in pool.imap_unordered(measure, [seed for seed in seeds if seed not in done]):
            done[record["seed"]] = {name: str(value) for name, value in record.items()}
            table.writerow(record)
            file.flush()
            if not record["passed"]:
                print(f"seed {record['seed']}: {record['fault']} ({record['stages']})", flush=True)
    records = [done[seed] for seed in seeds if seed in done]
    print(summary(records))
    return int(any(one["passed"] != "True" for one in records))


def measure(seed: int) -> Record:
    """Build, trace, slim and check one network."""
    import torch
    from random_nets import random_net

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    record: Record = {**dict.fromkeys(FIELDS, ""), "seed": seed, "passed": False}
    started = time.perf_counter()
    try:
        net, inputs = random_net(seed)
        record["stages"] = " ".join(_describe(stage) for stage in net.stages)
        _prove(net, inputs, seed, record)
        record["passed"] = not record["fault"]
    except Exception as error:  # noqa: BLE001 (whatever went wrong is this network's result)
        last = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(last.filename).name}:{last.lineno}"
        message = " ".join(str(error).split())[:300]
        record["fault"] = f"{type(error).__name__} at {place}: {message}"
    record["seconds"] = round(time.perf_counter() - started, 3)
    return record


def _prove(net: Any, inputs: Any, seed: int, record: Record) -> None:
    import torch
    from exactness import check
    from random_nets import TOLERANCE, other_inputs, random_plan

    from pipeline.graph import trace
    from pipeline.prune import slim

    before = copy.deepcopy(net.state_dict())
    graph = trace(net, inputs)
    plan = random_plan(graph, seed)
    record["groups"], record["form"] = len(graph.groups), plan.form
    slimmed = slim(net, plan)
    record["before"], record["after"] = (sum(one.numel() for one in m.parameters()) for m in (net, slimmed))
    record["off"] = check(net, graph, plan, slimmed, other_inputs(inputs))
    if record["off"] > TOLERANCE:
        record["fault"] = f"off by {record['off']:.3g}"
    elif any(not torch.equal(one, before[name]) for name, one in net.state_dict().items()):
        record["fault"] = "the given network was changed"
    elif record["after"] >= record["before"] and any(a < b for b, a in plan.widths.values()):
        record["fault"] = "units went, parameters did not"


def _describe(stage: Any) -> str:
    kind = getattr(stage, "kind", getattr(stage, "mode", ""))
    return type(stage).__name__ + (f":{kind}" if isinstance(kind, str) and kind else "")


def read(path: Path) -> dict[int, dict[str, str]]:
    """Return the results so far by seed."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {int(one["seed"]): one for one in csv.DictReader(file)}


def write(path: Path, records: Iterable[dict[str, str]]) -> None:
    """Write a file of these results."""
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, FIELDS)
        table.writeheader()
        table.writerows(records)


def summary(records: list[dict[str, str]]) -> str:
    """Return a few lines about all results."""
    passed = [one for one in records if one["passed"] == "True"]
    grouped = [one for one in passed if int(one["groups"])]
    cuts = [1 - int(one["after"]) / int(one["before"]) for one in grouped]
    module = sum(one["form"] == "module" for one in passed)
    worst = max((float(one["off"]) for one in passed), default=0.0)
    return (
        f"{len(records)} networks: {len(passed)} passed, {len(records) - len(passed)} did not; "
        f"{len(grouped)} had groups; median cut {median(cuts or [0.0]):.0%} of the parameters; "
        f"{module} in module form, {len(passed) - module} in graph form; worst relative error {worst:.2g}"
    )


if __name__ == "__main__":
    sys.exit(main())
