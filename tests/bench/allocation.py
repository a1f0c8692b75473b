"""How long the exact allocation takes, how far from the proven best it ends, and what it says where nothing fits.

    python tests/bench/allocation.py [--models resnet56 …] [--budgets 70 50 35 1] [--seeds 5] [--gap 1e-6]
                                     [--seconds 30] [--device local] [--runtimes onnxruntime tflite] [--profile FILE]

Costs come from a device that is a formula with stairs (`tests/search/stair_devices.py`: whole tiles of 8 outputs and 4
inputs, times off by 0.3 %); with --device from the table of a real one. They are corrected as after the whole
model's measurement, which says 10 % more than the table. Loss curves are drawn: heights over two orders of magnitude,
more and less steep. Budgets are shares of the whole model's costs: for latency alone, for latency, memory peak and
file at once. Prints Markdown: median (largest) processor time over the seeds, which other programs hardly change.
The networks for 224 x 224 images need torchvision beside this project.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "search"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import numpy as np
import torch
from cifar_resnet import resnet20, resnet56
from loop_models import mobilenet_v2
from stair_devices import lead, noisy, stairs
from synthetic_device import MEASURED
from torch import nn
from zoo_catalogue import import_torchvision

from pipeline.device.registry import find_device, open_device
from pipeline.feedback import Feedback
from pipeline.graph import DependencyGraph, trace
from pipeline.profile import load_profile, parse_budget, with_overrides
from pipeline.search import (
    EMPTY,
    Allocation,
    LatencyTable,
    MilpAllocator,
    Problem,
    Staircase,
    loss_curves,
    model_peak_bytes,
    searchable,
    table_shapes,
    weight_bytes,
)
from pipeline.store import Store
from pipeline.survey import Survey, make_table
from pipeline.watch import Silent
from pipeline.workshop import Workshop

MEASURED_OVER_TABLE = 1.1
GRAPH_BYTES, RUNTIME_BYTES = 20_000, 300_000  # in a file beside the weights; the runtime's own
SETS = (("latency",), ("latency", "model_peak", "file"))
Grid = Mapping[str, tuple[int, ...]]


def _torchvision(name: str) -> Callable[[], nn.Module]:
    return lambda: import_torchvision().models.get_model(name, weights=None)


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet20": (resnet20, 32),
    "resnet56": (resnet56, 32),
    "mobilenet_v2, 32 x 32": (mobilenet_v2, 32),
    "mobilenet_v2": (_torchvision("mobilenet_v2"), 224),
    "resnet50": (_torchvision("resnet50"), 224),
}


@dataclass(frozen=True)
class Ground:
    """A model on a device: what hangs together, the candidate widths, the table."""

    model: str
    device: str
    graph: DependencyGraph
    widths: Grid
    table: LatencyTable

    def problem(self, seed: int) -> Problem:
        """Return the problem without limits, costs corrected as after the whole model's measurement."""
        importance = {name: np.ones(choices[-1]) for name, choices in self.widths.items()}
        survey = Survey(self.graph, importance, self.widths, _curves(self.widths, seed), self.table)
        measured = replace(
            MEASURED,
            latency_ms=replace(MEASURED.latency_ms, p50=MEASURED_OVER_TABLE * survey.table_ms({})),
            file_bytes=int(weight_bytes(self.graph, {})) + GRAPH_BYTES,
            model_peak_bytes=int(model_peak_bytes(self.graph, {})) + RUNTIME_BYTES,
        )
        return Feedback().learn_from(survey, {}, measured).problem(survey, ())


@dataclass(frozen=True)
class Asked:
    """One allocation: processor time it took, and what it said."""

    seconds: float
    limits: Mapping[str, float]
    found: Allocation


def main() -> None:
    """Read the flags and print the tables."""
    options = _options()
    torch.set_num_threads(1)
    allocator = MilpAllocator(options.seconds, options.gap)
    print(
        f"gap {options.gap:g}, at most {options.seconds:g} s, {options.seeds} draws\n\n"
        "| model | device | groups | pairs | budgets | share | CPU s | gap, % | proven | most used, % |\n"
        "|---|---|---:|---:|---|---:|---:|---:|---:|---|"
    )
    for ground in _grounds(options):
        problems = [ground.problem(seed) for seed in range(options.seeds)]
        for resources in SETS:
            for share in options.budgets:
                asked = [_ask(allocator, problem, resources, share / 100) for problem in problems]
                print(_line(ground, problems[0], resources, share, asked), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--budgets", nargs="+", type=float, default=[70.0, 50.0, 35.0, 1.0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--gap", type=float, default=MilpAllocator().relative_gap)
    parser.add_argument("--seconds", type=float, default=MilpAllocator().time_limit_s)
    parser.add_argument("--device")
    parser.add_argument("--profile")
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime"])
    return parser.parse_args()


def _grounds(options: argparse.Namespace) -> Iterator[Ground]:
    for name in options.models:
        build, size = MODELS[name]
        torch.manual_seed(0)
        graph = searchable(trace(build().eval(), torch.zeros(1, 3, size, size)))
        if options.device is None:
            yield _formula(name, graph)
        else:
            yield from _measured(name, graph, options)


def _formula(name: str, graph: DependencyGraph) -> Ground:
    search, clock = Staircase(graph), noisy(stairs(8, 4), 0.003)
    lead(search, clock)
    widths = search.widths(search.settled(even_too=True))
    times = {
        shape: search.times.get(shape) or clock(shape) for shape in (EMPTY, *table_shapes(graph, widths))
    }
    return Ground(name, "formula", graph, widths, LatencyTable.from_times(times))


def _measured(name: str, graph: DependencyGraph, options: argparse.Namespace) -> Iterator[Ground]:
    profile = load_profile(options.profile or find_device(options.device).profile)
    budgets = [parse_budget("latency=50%"), parse_budget("file=50%")]
    with open_device(options.device) as device, tempfile.TemporaryDirectory() as folder:
        for runtime in options.runtimes:
            chosen = with_overrides(profile, budgets, runtime, None)
            run = Store(Path(folder) / runtime).create({})
            shop = Workshop(run, None, chosen, device, Silent())  # type: ignore[arg-type]
            _, widths, table = make_table(shop, graph)
            run.close()
            yield Ground(name, f"{options.device}, {runtime}", graph, widths, table)


def _curves(widths: Grid, seed: int) -> dict[str, list[float]]:
    """Return loss curves such as `loss_curves` measures them."""
    source = np.random.default_rng(seed)
    drawn = {name: (source.lognormal(0, 1.2), source.uniform(1.2, 4)) for name in widths}

    def measure(cut: Mapping[str, int]) -> float:
        return sum(
            drawn[name][0] * (1 - width / widths[name][-1]) ** drawn[name][1] * source.uniform(0.9, 1.1)
            for name, width in cut.items()
        )

    return loss_curves(widths, measure, lambda *_: None)


def _ask(allocator: MilpAllocator, problem: Problem, resources: tuple[str, ...], share: float) -> Asked:
    whole = problem.predicted(problem.full())
    limits = {name: share * whole[name] for name in resources}
    begin = time.process_time()
    found = allocator.allocate(replace(problem, limits=limits))
    return Asked(time.process_time() - begin, limits, found)


def _line(
    ground: Ground, problem: Problem, resources: tuple[str, ...], share: float, asked: list[Asked]
) -> str:
    seconds = [each.seconds for each in asked]
    used = [max(each.found.predicted[name] / limit for name, limit in each.limits.items()) for each in asked]
    pairs = {pair for row in problem.rows for pair in row.pairs}
    fit = sum(each.found.feasible for each in asked)
    way = ", ".join(sorted({name for each in asked for name in each.found.binding}))
    cells = (
        ground.model,
        ground.device,
        len(problem.widths),
        len(pairs),
        ", ".join(resources),
        f"{share:g} %",
        f"{statistics.median(seconds):.2f} ({max(seconds):.2f})",
        f"{100 * max(each.found.gap for each in asked):.2g}",
        f"{sum(each.found.optimal for each in asked)} of {len(asked)}",
        f"{100 * statistics.median(used):.1f}" + ("" if fit == len(asked) else f": {way} in the way"),
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    main()
