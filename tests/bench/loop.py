"""Where the loop lands on a device: models, runtimes and budgets, and how many whole-model measurements it took.

    python tests/bench/loop.py --folder DIR [--device emu] [--models resnet20 ds_cnn] [--budgets 70 50 35]
                               [--runtimes onnxruntime tflite] [--strategy feedback] [--profile FILE]

For each model and runtime the baseline is measured, its layers are timed, and for each budget (per cent of the baseline
latency) widths are searched as a deploy does before it trains. Each combination is a run in DIR: a bench that was
stopped goes on where it was. ResNet-20 has trained weights; the others learn a little first (`loop_data.py`), so that
it matters what goes. PIPELINE_DATA says where CIFAR-10, the weights and the spoken digits are. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from loop_data import write_digits, write_images
from rich.console import Console

from pipeline.candidate import Candidate
from pipeline.cli.progress import Terminal
from pipeline.deploy import measure_baseline
from pipeline.device.client import DeviceClient
from pipeline.device.registry import find_device, open_device
from pipeline.feedback import Feedback
from pipeline.files import write_atomically
from pipeline.fit import Fitted, fit
from pipeline.method import AS_USUAL
from pipeline.profile import DeviceProfile, Limit, load_profile
from pipeline.search import MilpAllocator
from pipeline.search.shapes import shape_at
from pipeline.store import Run, Store
from pipeline.survey import Survey, study, survey
from pipeline.task import Task, load_task
from pipeline.workshop import Workshop

HERE = Path(__file__).resolve().parent
SHAPES = {"resnet8": [3, 32, 32], "mobilenet_v2": [3, 32, 32], "ds_cnn": [1, 49, 10]}
TASK = """
[model]
factory = "{factory}:{model}"
input_shape = {shape}
[data]
source = "npz:{data}"
validation_share = 0.2
[preprocess]
scale = {scale}
mean = {mean}
std = {std}
[baseline]
epochs = {epochs}
[recover]
epochs = 1
"""
IMAGES = {"data": "images.npz", "scale": 1 / 255, "mean": [0.49, 0.48, 0.45], "std": [0.25] * 3, "epochs": 2}
DIGITS = {"data": "digits.npz", "scale": 1.0, "mean": [0.0], "std": [1.0], "epochs": 10}
WRITERS = {"images.npz": write_images, "digits.npz": write_digits}
Line = dict[str, Any]
ERRORS = ("table", "corrected", "macs")


def main() -> None:
    options = _options()
    options.folder.mkdir(parents=True, exist_ok=True)
    profile = load_profile(options.profile or find_device(options.device).profile)
    lines: list[Line] = []
    with open_device(options.device) as device:
        print(f"{device.status().board.model}, {options.strategy}\n")
        for model in options.models:
            task = task_of(model, options.folder)
            for runtime in options.runtimes:
                lines += _combination(options, task, replace(profile, runtime=runtime), device, model)
    _print(lines, options.window)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="local")
    parser.add_argument("--profile")
    parser.add_argument("--models", nargs="+", default=["resnet20", *SHAPES], choices=["resnet20", *SHAPES])
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "tflite"])
    parser.add_argument("--budgets", nargs="+", type=float, default=[70.0, 50.0, 35.0])
    parser.add_argument("--strategy", default="feedback")
    parser.add_argument(
        "--window", type=float, default=97.0, help="per cent of a budget from which on it is used up"
    )
    return parser.parse_args()


def task_of(model: str, folder: Path) -> Task:
    """Return the task of a model, with its data in `folder`."""
    if model not in SHAPES:
        return load_task(f"cifar10_{model}.toml")
    learns: dict[str, Any] = DIGITS if model == "ds_cnn" else IMAGES
    data = folder / learns["data"]
    if not data.exists():
        write_atomically(data, WRITERS[data.name])
    file = folder / f"{model}.toml"
    file.write_text(TASK.format(model=model, factory=HERE / "loop_models.py", shape=SHAPES[model], **learns))
    return load_task(str(file))


def _combination(
    options: argparse.Namespace, task: Task, profile: DeviceProfile, device: DeviceClient, model: str
) -> list[Line]:
    """Search for every budget of one model under one runtime; the lines of the table."""
    with _run(options.folder, f"{options.device} {model} {profile.runtime} {options.strategy}") as run:
        console = Console(stderr=True, highlight=False)
        console.print(f"{model}, {profile.runtime}")
        shop = Workshop(run, task, profile, device, Terminal(console))
        shop.settle_host()
        baseline = measure_baseline(shop)
        ground = survey(shop, study(shop, baseline.built), baseline.built)
        lines = []
        for number, share in enumerate(options.budgets):
            budget = share / 100 * baseline.measurement.latency_ms.p50
            fitted = fit(
                shop,
                baseline,
                ground,
                (Limit("latency", budget, "p50", f"{share:g}%"),),
                Feedback().learn(ground, baseline),
                MilpAllocator(),
                first=1 + 10 * number,
                rounds=AS_USUAL.rounds,
                strategy=options.strategy,
            )
            found = _line(share, budget, baseline, ground, fitted)
            lines.append({"model": model, "runtime": profile.runtime, **found})
        return lines


@contextmanager
def _run(folder: Path, name: str) -> Iterator[Run]:
    """Make the run of a combination, or go on with it."""
    index, store = folder / "runs.json", Store(folder / "store")
    known = json.loads(index.read_text()) if index.exists() else {}
    run = store.open(known[name]) if name in known else store.create({"bench": name})
    index.write_text(json.dumps({**known, name: run.id}, indent=2))
    try:
        yield run
    finally:
        run.close()


def _line(share: float, budget: float, baseline: Candidate, ground: Survey, fitted: Fitted) -> Line:
    measured = [each.measurement.latency_ms.p50 for each in fitted.candidates]
    dense, whole = baseline.measurement.latency_ms.p50, _macs(ground, ground.full())

    def errors(predicted: Iterator[float]) -> list[float]:
        return [100 * abs(guess / found - 1) for guess, found in zip(predicted, measured, strict=True)]

    return {
        "budget": share,
        "baseline_ms": dense,
        "shapes": len(ground.table.entries),
        "landed": None if fitted.best is None else 100 * fitted.best.measurement.latency_ms.p50 / budget,
        "each": [100 * found / budget for found in measured],
        "table": errors(each.table_ms or math.nan for each in fitted.candidates),
        "corrected": errors(each.calibrated_ms or math.nan for each in fitted.candidates),
        "macs": errors(dense * _macs(ground, each.widths) / whole for each in fitted.candidates),
        "why": fitted.why,
        "flags": sorted({flag for each in fitted.candidates for flag in each.measurement.flags}),
    }


def _macs(ground: Survey, widths: Mapping[str, int]) -> float:
    """Return the multiplications of the layers that the table times."""
    kept = {**ground.full(), **widths}
    total = 0.0
    for layer in ground.graph.layers:
        shape = shape_at(layer, kept)
        if shape.kind != "gone":
            places = shape.input_hw[0] if shape.kind == "linear" else math.prod(shape.output_hw)
            total += shape.out_width * places * shape.in_width / shape.groups * math.prod(shape.kernel)
    return total


def _print(lines: list[Line], window: float) -> None:
    print(
        "| model | runtime | baseline, ms | shapes | budget | each, % of it | measurements | table alone off by, % | "
        "corrected | MACs | why it ended |\n|---|---|---:|---:|---:|---|---:|---|---|---|---|"
    )
    for line in lines:
        parts = [", ".join(f"{value:.2f}" for value in line[key]) for key in ERRORS]
        print(
            f"| {line['model']} | {line['runtime']} | {line['baseline_ms']:.4g} | {line['shapes']} | "
            f"{line['budget']:g} % | {_each(line)} | {len(line['each'])} | {' | '.join(parts)} | {line['why']} |"
        )
    landed = [line["landed"] for line in lines if line["landed"] is not None]
    inside = sum(window <= share <= 100 for share in landed)
    print(f"\nof {len(lines)}: {len(landed)} within the budget, {inside} in [{window:g} %, 100 %] of it")
    counts = Counter(len(line["each"]) for line in lines)
    print("measurements: " + ", ".join(f"{count} x {number}" for number, count in sorted(counts.items())))
    for runtime in dict.fromkeys(line["runtime"] for line in lines):
        _print_errors(runtime, [line for line in lines if line["runtime"] == runtime])
    _print_errors("all", lines)
    flagged = {flag for line in lines for flag in line["flags"]}
    print(f"flags: {', '.join(sorted(flagged)) or 'none'}")


def _each(line: Line) -> str:
    """Return where each measurement landed; the one that was taken is bold if it is not the last."""
    found = [f"{share:.2f}" for share in line["each"]]
    if line["landed"] is not None and (taken := line["each"].index(line["landed"])) < len(found) - 1:
        found[taken] = f"**{found[taken]}**"
    return ", ".join(found)


def _print_errors(name: str, lines: list[Line]) -> None:
    """Print the median and the largest error of the predictions of first and second plans."""
    firsts = [f"{key} {_spread([line[key][0] for line in lines if line[key]])}" for key in ERRORS]
    second = _spread([line["corrected"][1] for line in lines if len(line["corrected"]) > 1])
    print(f"{name}: first plans off by (%): {', '.join(firsts)}; second plans, corrected: {second}")


def _spread(errors: list[float]) -> str:
    return f"{statistics.median(errors):.2f} (at most {max(errors):.2f})" if errors else "none"


if __name__ == "__main__":
    sys.exit(main())
