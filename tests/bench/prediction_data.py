"""What a device says of ResNet-20 and of random widths of it: its table and whole-model measurements, as plain JSON.

The weights are random, since no latency depends on them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from pipeline.convert import converter
from pipeline.device.client import Device
from pipeline.graph import DependencyGraph, trace
from pipeline.measurement import LayerTiming, Measurement, MeasuringProtocol
from pipeline.prune import slim
from pipeline.search import (
    EMPTY,
    LatencyTable,
    LayerShape,
    build_layer_model,
    candidate_widths,
    kept_indices,
    pair_shapes,
    searchable,
    table_shapes,
    times_of,
)
from pipeline.survey import Survey

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
PROTOCOL = MeasuringProtocol(min_duration_s=1.0, warmup_max_s=2.0, max_attempts=2, operators=True)

Widths = Mapping[str, int]


def network() -> tuple[torch.nn.Module, torch.Tensor]:
    """Return ResNet-20 with random weights, and an input."""
    sys.path.insert(0, str(EXAMPLES))
    from cifar_resnet import resnet20

    torch.manual_seed(0)
    model: torch.nn.Module = resnet20()
    return model.eval(), torch.zeros(1, 3, 32, 32)


def plans(widths: Mapping[str, Sequence[int]], count: int, seed: int) -> list[dict[str, int]]:
    """Return random widths, whole blocks dropped in some."""
    pick = random.Random(seed)
    return [{name: pick.choice(choices) for name, choices in widths.items()} for _ in range(count)]


@dataclass(frozen=True)
class Bench:
    """A device, how it is asked, and the network's graph and candidate widths."""

    device: Device
    runtime: str
    threads: int
    folder: Path

    def timings(self) -> tuple[LayerTiming, ...]:
        """Have the device time every layer at every candidate width, and every pair of neighbours."""
        files = []
        for number, shape in enumerate((*shapes_of(*grid()), *pair_shapes(*grid()))):
            files.append(self.folder / f"{number:04d}{converter(self.runtime).suffix}")
            build_layer_model(shape, self.runtime, files[-1])
        how = {"runtime": self.runtime, "threads": self.threads, "protocol": PROTOCOL}
        found = self.device.measure_layers(files, **how)
        print(f"{len(files)} layers timed on {self.runtime}", file=sys.stderr)
        return found

    def measure(self, widths: Widths) -> Measurement:
        """Have the device measure the network at `widths`; without any, the whole one."""
        model, example = network()
        path = self.folder / f"model{converter(self.runtime).suffix}"
        converter(self.runtime).convert(_slimmed(model, grid()[0], widths), example, path)
        how = {"runtime": self.runtime, "threads": self.threads, "protocol": PROTOCOL}
        found = self.device.measure(path, **how)
        print(f"{found.latency_ms.p50:.4g} ms {', '.join(found.flags)}", file=sys.stderr)
        return found


def collect(bench: Bench, count: int, seed: int) -> dict[str, Any]:
    """Have a device time the layers and the whole models; return it all."""
    timings = bench.timings()
    models = [[chosen, _plain(bench.measure(chosen))] for chosen in ({}, *plans(grid()[1], count, seed))]
    return {
        "timings": [TypeAdapter(LayerTiming).dump_python(each, mode="json") for each in timings],
        "models": models,
    }


@cache
def grid() -> tuple[DependencyGraph, dict[str, tuple[int, ...]]]:
    """Return the network's graph and its candidate widths."""
    graph = searchable(trace(*network()))
    return graph, candidate_widths(graph)


def shapes_of(graph: DependencyGraph, widths: Mapping[str, tuple[int, ...]]) -> tuple[LayerShape, ...]:
    """Return the single layers that the table holds, in its order."""
    return (EMPTY, *table_shapes(graph, widths))


def survey_of(timings: Sequence[LayerTiming]) -> Survey:
    """Return the ground that a search stands on; the more units a group has, the less the next one keeps."""
    graph, widths = grid()
    shapes, pairs = shapes_of(graph, widths), pair_shapes(graph, widths)
    alone, together = timings[: len(shapes)], timings[len(shapes) :]
    table = LatencyTable.from_times(times_of(shapes, alone), times_of(pairs, together))
    importance = {name: np.ones(choices[-1]) for name, choices in widths.items()}
    rises = {name: 1 - np.sqrt(np.array(choices) / choices[-1]) for name, choices in widths.items()}
    return Survey(graph, importance, widths, rises, table)


def read(data: dict[str, Any]) -> tuple[Survey, list[tuple[dict[str, int], Measurement]]]:
    """Return the survey, and the models with their measurements, the dense one first, of what `collect` gave."""
    ground = survey_of([TypeAdapter(LayerTiming).validate_python(each) for each in data["timings"]])
    return ground, [
        (dict(chosen), TypeAdapter(Measurement).validate_python(made)) for chosen, made in data["models"]
    ]


def _plain(measured: Measurement) -> Any:
    return TypeAdapter(Measurement).dump_python(measured, mode="json")


def _slimmed(model: torch.nn.Module, graph: DependencyGraph, chosen: Widths) -> torch.nn.Module:
    if not chosen:
        return model
    importance = {name: np.ones(graph.group(name).width) for name in chosen}
    return slim(model, graph.plan(kept_indices(importance, chosen))).eval()
