"""Runs a bundle's golden inputs and compares what comes out with its golden outputs; runs in a worker."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from device_agent import runtimes
from device_agent.benchmark import timed_runs, warm_up
from device_agent.errors import RequestError
from device_agent.statistics import median

_SECONDS = 0.5


def check(runtime: runtimes.Runtime, folder: Path, threads: int, golden: dict[str, Any]) -> dict[str, Any]:
    """Check one bundle.

    Args:
        runtime: an open runtime.
        folder: the bundle's folder.
        threads: threads to infer with.
        golden: model, inputs and outputs (file names), rtol and atol.

    Returns:
        ok, max_abs_error (`None` if the shapes differ or an output is not finite), tolerance, latency_p50_ms.

    Raises:
        RequestError: `bad_manifest` for arrays that cannot be read or fed, `model_refused`, `out_of_memory`.
    """
    inputs = [_array(folder / name) for name in golden["inputs"]]
    wanted = [_array(folder / name) for name in golden["outputs"]]
    session = runtimes.load(runtime, folder / golden["model"], threads)
    specs = session.inputs
    if len(inputs) != len(specs):
        raise RequestError(
            "bad_manifest", f"{len(inputs)} golden inputs for a model with {len(specs)} inputs"
        )
    try:
        found = session.run(inputs)
        call = session.prepare(inputs)
        warm_up(call, _SECONDS, lambda _: None)
        samples = array("q")
        timed_runs(call, samples, 1000, perf_counter_ns() / 1e9 + _SECONDS)
    except Exception as error:
        raise runtimes.refused(error) from error
    return {
        "ok": _close(found, wanted, golden["rtol"], golden["atol"]),
        "max_abs_error": _max_abs_error(found, wanted),
        "tolerance": {"rtol": golden["rtol"], "atol": golden["atol"]},
        "latency_p50_ms": median(samples) / 1e6,
    }


def _array(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise RequestError("bad_manifest", f"{path.name} is not an array file: {str(error)[:200]}") from error


def _same_shapes(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    return [np.shape(a) for a in found] == [np.shape(b) for b in wanted]


def _close(found: Sequence[Any], wanted: Sequence[Any], rtol: float, atol: float) -> bool:
    if not _same_shapes(found, wanted):
        return False
    return all(bool(np.allclose(a, b, rtol=rtol, atol=atol)) for a, b in zip(found, wanted))


def _max_abs_error(found: Sequence[Any], wanted: Sequence[Any]) -> Any:
    if not _same_shapes(found, wanted):
        return None
    pairs = zip(found, wanted)
    errors = [
        float(np.max(np.abs(np.asarray(a, float) - np.asarray(b, float)), initial=0.0)) for a, b in pairs
    ]
    worst = max(errors)
    return worst if math.isfinite(worst) else None
