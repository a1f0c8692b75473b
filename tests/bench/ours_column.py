"""The zoo's first column: this program on one model, timed and checked.

Seconds are processor seconds of one thread; those inside torch.export are measured apart, in the same call.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from export_clock import ExportClock
from torch import nn
from zoo_catalogue import build
from zoo_checks import (
    DenseError,
    count_parameters,
    largest_difference,
    onnx_difference,
    outputs_of,
    require,
    training_step,
)
from zoo_models import Inputs

import pipeline

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "prune"))
Record = dict[str, Any]


def revision() -> str:
    """Return a digest of what this column's results depend on: the program's source and the reference's."""
    digest = hashlib.sha256()
    reference = (ROOT / "tests" / "prune").glob("exactness*.py")
    for path in sorted([*(ROOT / "pipeline").rglob("*.py"), *reference]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def measure(
    name: str, keep: float, image_size: int | None, stage: Callable[[str], None], record: Record
) -> None:
    """Slim and check one model, and fill in `record`; an error leaves it as far as it got."""
    clock = ExportClock()
    stage("warm-up")
    warm_up()
    stage("build")
    subject = build(name, image_size)
    inputs = subject.inputs(1)
    record["parameters_before"] = count_parameters(subject.model)
    graph, plan, slimmed = _slim(subject.model, inputs, keep, clock, stage, record)
    record["parameters_after"] = count_parameters(slimmed)
    record["groups"], record["frozen"] = len(graph.groups), len(graph.frozen)
    record["form"] = getattr(plan, "form", "module")
    checks: dict[str, Callable[[], Any]] = {
        "forward": lambda: _same_shapes(subject.model, slimmed, inputs),
        "exact": lambda: _exact(graph, plan, slimmed, subject.model, inputs),
        "train": lambda: training_step(slimmed, subject.inputs, record["form"] == "graph"),
        "onnx": lambda: onnx_difference(slimmed, subject.model, inputs),
    }
    record["checks"], record["faults"] = {}, {}
    for kind, check in checks.items():
        stage(kind)
        _run_check(kind, check, record)
        if "forward" in record["faults"]:
            break  # the others would say the same
    record["ok"] = not record["faults"]


def _slim(
    model: nn.Module, inputs: Inputs, keep: float, clock: ExportClock, stage: Any, record: Record
) -> tuple[Any, Any, nn.Module]:
    """Trace, plan and slim; note each one's seconds, and the seconds that torch.export took of them."""
    parts: dict[str, float] = {}
    wall = time.perf_counter()
    results: list[Any] = []
    steps: list[tuple[str, Callable[[], Any]]] = [
        ("trace", lambda: pipeline.trace(model, inputs)),
        ("plan", lambda: pipeline.uniform_plan(results[0], keep=keep)),
        ("slim", lambda: pipeline.slim(model, results[1])),
    ]
    for kind, step in steps:
        stage(kind)
        clock.spent, begun = 0.0, time.process_time()
        results.append(step())
        parts[kind] = time.process_time() - begun - clock.spent
        record["export_seconds"] = record.get("export_seconds", 0.0) + clock.spent
    record["wall_seconds"] = time.perf_counter() - wall
    record["parts"], record["seconds"] = parts, sum(parts.values())
    return results[0], results[1], results[2]


def _run_check(kind: str, check: Callable[[], Any], record: Record) -> None:
    """Note what a check says; one that fails does not keep the others from running."""
    begun = time.process_time()
    try:
        record["checks"][kind] = check()
    except DenseError as error:
        record["checks"][kind] = "the dense model does no better"
        record["dense_fault"] = str(error)
    except Exception as error:  # noqa: BLE001 - whatever goes wrong is the finding
        record["faults"][kind] = f"{type(error).__name__}: {str(error).strip()[:600]}"
    record["checks"][f"{kind}_seconds"] = round(time.process_time() - begun, 2)


def _same_shapes(dense: nn.Module, slimmed: nn.Module, inputs: Inputs) -> str:
    with torch.no_grad():
        wanted, found = outputs_of(dense(*inputs)), outputs_of(slimmed(*inputs))
    largest_difference(found, wanted)  # shapes and finiteness; the values differ, something was cut
    return "ok"


def _exact(graph: Any, plan: Any, slimmed: nn.Module, dense: nn.Module, inputs: Inputs) -> float:
    """Return the largest relative error in float64 between the slimmed model and its definition."""
    from exactness import TOLERANCE, check

    error = float(check(dense, graph, plan, slimmed, inputs))
    require(error <= TOLERANCE, f"relative error {error:.1e}")
    return error


def warm_up() -> None:
    """Let imports and first-call costs fall outside the measured time, as they do for the other column."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    graph = pipeline.trace(net, (torch.randn(1, 3, 8, 8),))
    pipeline.slim(net, pipeline.uniform_plan(graph, keep=0.5))
