"""Slim every model of the zoo, check each, and set Torch-Pruning's column beside ours.

    python tests/bench/zoo.py run --out FOLDER [--only NAME ...] [--which ours|torch-pruning|both]
    python tests/bench/zoo.py report --out FOLDER

Needs torchvision, timm, torch-pruning, onnx and onnxruntime beside this project. Each model and each column
is a process of its own, with a time limit and a memory limit. Results are lines of FOLDER/results.jsonl; a
run goes on where the last one ended. Results of ours count for the source they were made with, so a change
of the source makes a run start anew (`--retry`: only what failed, whatever the source was).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

GIB = 2**30
BIG = 180_000_000  # parameters; a model this large runs alone, with twice the memory
COLUMNS = {"ours": "ours_column", "torch-pruning": "torch_pruning_column"}
Record = dict[str, Any]


def main() -> None:
    """Read the command line and do what it says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run_parser = commands.add_parser("run", help="measure models and append to FOLDER/results.jsonl")
    run_parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    run_parser.add_argument("--only", nargs="+", default=["*"], metavar="NAME", help="names or patterns")
    run_parser.add_argument("--which", choices=[*COLUMNS, "both"], default="both")
    run_parser.add_argument("--jobs", type=int, default=2)
    run_parser.add_argument("--timeout", type=float, default=600.0, help="seconds for a model")
    run_parser.add_argument("--keep", type=float, default=0.5)
    run_parser.add_argument("--image-size", type=int, help="side of the input; the model's own by default")
    run_parser.add_argument("--memory", type=float, default=10.0, help="GiB for a model")
    run_parser.add_argument("--big", action="store_true", help="only the models above 180 M parameters")
    run_parser.add_argument("--retry", action="store_true", help="only those whose last result failed")
    report_parser = commands.add_parser("report", help="write zoo.csv and zoo.md into FOLDER")
    report_parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    one_parser = commands.add_parser("one")  # what `run` starts for each model
    one_parser.add_argument("model")
    one_parser.add_argument("column", choices=list(COLUMNS))
    one_parser.add_argument("--keep", type=float, required=True)
    one_parser.add_argument("--image-size", type=int)
    one_parser.add_argument("--memory", type=float, required=True)
    arguments = parser.parse_args()
    {"run": run, "report": report, "one": one}[arguments.command](arguments)


def report(arguments: argparse.Namespace) -> None:
    """Write the tables from what was measured."""
    from zoo_report import write

    print(write(arguments.out, results(arguments.out)))


def run(arguments: argparse.Namespace) -> None:
    """Measure what is still missing, cheap models first."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    sizes = _sizes(arguments.out)
    chosen = [name for name in sizes if any(_matches(name, one) for one in arguments.only)]
    chosen = [name for name in chosen if (sizes[name] > BIG) == arguments.big]
    columns = list(COLUMNS) if arguments.which == "both" else [arguments.which]
    revisions = {column: import_module(COLUMNS[column]).revision() for column in columns}
    newest = {(one["model"], one["column"]): one for one in results(arguments.out)}
    wanted = [
        (name, column)
        for name in sorted(chosen, key=lambda name: sizes[name])
        for column in columns
        if _is_missing(newest.get((name, column)), revisions[column], arguments)
    ]
    jobs = 1 if arguments.big else arguments.jobs
    lock, done = Lock(), [0]

    def measure(task: tuple[str, str]) -> None:
        record = _measure_apart(*task, revisions[task[1]], arguments)
        with lock:
            done[0] += 1
            with (arguments.out / "results.jsonl").open("a") as lines:
                lines.write(json.dumps(record) + "\n")
            print(f"[{done[0]}/{len(wanted)}] {_line(record)}", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(measure, wanted))


def results(folder: Path) -> list[Record]:
    """Return every result so far, oldest first."""
    file = folder / "results.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _sizes(folder: Path) -> dict[str, int]:
    """Return every model's number of parameters, counted once a folder."""
    from zoo_catalogue import names, parameters

    file = folder / "sizes.json"
    known: dict[str, int] = json.loads(file.read_text()) if file.exists() else {}
    sizes = {name: known[name] if name in known else parameters(name) for name in names()}
    file.write_text(json.dumps(sizes, indent=0))
    return sizes


def _matches(name: str, pattern: str) -> bool:
    return fnmatch(name, pattern) or fnmatch(name.partition("/")[2], pattern)


def _is_missing(last: Record | None, revision: str, arguments: argparse.Namespace) -> bool:
    if arguments.retry:
        return last is not None and not last["ok"]
    same = last is not None and last["revision"] == revision and last["keep"] == arguments.keep
    return not (same and last is not None and last["image_size"] == arguments.image_size)


def _measure_apart(name: str, column: str, revision: str, arguments: argparse.Namespace) -> Record:
    """Measure one model in a process of its own; return its record, also when it dies."""
    memory = arguments.memory * (2 if arguments.big else 1)
    command = [sys.executable, __file__, "one", name, column]
    command += ["--keep", str(arguments.keep), "--memory", str(memory)]
    if arguments.image_size is not None:
        command += ["--image-size", str(arguments.image_size)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    record: Record = {"model": name, "column": column, "revision": revision, "keep": arguments.keep}
    record |= {"image_size": arguments.image_size, "ok": False, "time": time.strftime("%Y-%m-%d %H:%M:%S")}
    with tempfile.TemporaryFile("w+") as said:
        child = subprocess.Popen(
            command, stdout=said, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            code = child.wait(arguments.timeout)
            fault = f"the process ended with status {code}"
        except subprocess.TimeoutExpired:
            fault = f"not done within {arguments.timeout:g} s"
        finally:
            _end(child)
        said.seek(0)
        return record | _told(said.read().splitlines(), fault)


def _end(child: subprocess.Popen[bytes]) -> None:
    """End a child and whatever it started."""
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _told(lines: list[str], fault: str) -> Record:
    """Return the record that a child printed, or the stage in which it stopped printing."""
    for line in reversed(lines):
        if line.startswith("RESULT "):
            found: Record = json.loads(line.removeprefix("RESULT "))
            return found
    stages = [line.removeprefix("STAGE ") for line in lines if line.startswith("STAGE ")]
    return {"stage": stages[-1] if stages else "start", "error": fault, "said": lines[-5:]}


def one(arguments: argparse.Namespace) -> None:
    """Measure one model here, and print its record."""
    limit = int(arguments.memory * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    import torch

    torch.set_num_threads(1)
    record: Record = {"ok": False}

    def stage(name: str) -> None:
        record["stage"] = name
        print(f"STAGE {name}", flush=True)

    begun = time.perf_counter()
    try:
        stage("import")
        import_module(COLUMNS[arguments.column]).measure(
            arguments.model, arguments.keep, arguments.image_size, stage, record
        )
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the finding
        record["error"] = f"{type(error).__name__}: {str(error).strip()[:600]}"
        record["traceback"] = traceback.format_exc().splitlines()[-8:]
    record["peak_mib"] = _peak_mib()
    record["whole_seconds"] = round(time.perf_counter() - begun, 2)
    print("RESULT " + json.dumps(record), flush=True)


def _peak_mib() -> float | None:
    """Return the largest resident memory of this process (ru_maxrss would count the parent's too)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return None


def _line(record: Record) -> str:
    name = f"{record['column']:13s} {record['model']:45s}"
    if "parameters_after" in record and record.get("seconds") is not None:
        share = 1 - record["parameters_after"] / record["parameters_before"]
        name += f" -{share:5.1%} {record['seconds']:7.2f} s"
    if record["ok"]:
        return name + "  ok"
    faults = record.get("faults") or {record.get("stage"): record.get("error")}
    return name + "  FAILED " + "; ".join(f"{stage}: {str(why)[:160]}" for stage, why in faults.items())


if __name__ == "__main__":
    main()
