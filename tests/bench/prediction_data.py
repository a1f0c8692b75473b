"""What a device says of ResNet-20 and of random widths of it: its table and whole-model measurements, as plain JSON.

The weights are random, since no latency depends on them.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
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
    build_layer_model,
    candidate_widths,
    kept_indices,
    searchable,
    table_shapes,
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


def collect(device: Device, runtime: str, threads: int, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """Have a device time the layers and the whole models; return it all."""
    model, example = network()
    graph = searchable(trace(model, example))
    widths = candidate_widths(graph)
    shapes = (EMPTY, *table_shapes(graph, widths))
    maker = converter(runtime)
    files = []
    for number, shape in enumerate(shapes):
        files.append(folder / f"{number:04d}{maker.suffix}")
        build_layer_model(shape, runtime, files[-1])
    timings = device.measure_layers(files, runtime=runtime, threads=threads, protocol=PROTOCOL)
    print(f"{len(shapes)} layers timed on {runtime}", file=sys.stderr)
    made = []
    for number, chosen in enumerate([{}, *plans(widths, count, seed)]):
        path = folder / f"model-{number}{maker.suffix}"
        maker.convert(_slimmed(model, graph, chosen), example, path)
        measured = device.measure(path, runtime=runtime, threads=threads, protocol=PROTOCOL)
        print(f"model {number}: {measured.latency_ms.p50:.4g} ms {measured.flags}", file=sys.stderr)
        made.append([chosen, TypeAdapter(Measurement).dump_python(measured, mode="json")])
    return {"timings": TypeAdapter(tuple[LayerTiming, ...]).dump_python(timings, mode="json"), "models": made}


def survey_of(data: dict[str, Any]) -> tuple[Survey, list[tuple[dict[str, int], Measurement]]]:
    """Return the ground that a search would stand on, and the models with their measurements, the dense one first."""
    model, example = network()
    graph = searchable(trace(model, example))
    widths = candidate_widths(graph)
    timings = TypeAdapter(tuple[LayerTiming, ...]).validate_python(data["timings"])
    table = LatencyTable.from_timings((EMPTY, *table_shapes(graph, widths)), timings)
    importance = {name: np.ones(choices[-1]) for name, choices in widths.items()}
    kept = {name: np.array(choices) / sum(each[-1] for each in widths.values()) for name, choices in widths.items()}
    models = [(dict(chosen), TypeAdapter(Measurement).validate_python(made)) for chosen, made in data["models"]]
    return Survey(graph, importance, widths, kept, table), models


def _slimmed(model: torch.nn.Module, graph: DependencyGraph, chosen: Widths) -> torch.nn.Module:
    if not chosen:
        return model
    importance = {name: np.ones(graph.group(name).width) for name in chosen}
    return slim(model, graph.plan(kept_indices(importance, chosen))).eval()
