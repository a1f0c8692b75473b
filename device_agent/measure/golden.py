"""Runs a bundle's golden inputs and compares what comes out with its golden outputs; runs in a worker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from device_agent.errors import RequestError
from device_agent.measure import runtimes
from device_agent.measure.pace import STRETCH_S, Pace, Stretches
from device_agent.measure.timing import Call, now_s, warm_up
from device_agent.statistics import median, window_medians

_SECONDS = 0.5  # at the processor's full pace,
_LONGEST_S = 2.0  # and no longer than this
_MOST_RUNS = 5_000  # in a stretch; more says no more, and would take memory


def check(
    runtime: runtimes.Runtime, folder: Path, threads: int, golden: dict[str, Any], pace: Pace
) -> dict[str, Any]:
    """Check one bundle.

    Args:
        runtime: an open runtime.
        folder: the bundle's folder.
        threads: threads to infer with.
        golden: model, inputs and outputs (file names), rtol and atol.
        pace: of the core that this runs on.

    Returns:
        ok, why (not ok; else empty), max_abs_error (`None` if the shapes differ or an output is not finite),
        tolerance, runs, latency_p50_ms, and latency_best_ms: the lowest median of five windows. Whatever else the
        board does only adds time, so that a model that was slowed down in a part of the time is not taken for a
        slow one. Where too little ran at the processor's full pace, all counts, and slowdown says how many times
        longer its yardstick took; else that is 1.

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
        stretches = _timed(call, pace)
    except Exception as error:
        raise runtimes.refused(error) from error
    why = _why_wrong(found, wanted, golden["rtol"], golden["atol"])
    samples, slowed = stretches.counted()
    return {
        "ok": not why,
        "why": why,
        "max_abs_error": _max_abs_error(found, wanted),
        "tolerance": {"rtol": golden["rtol"], "atol": golden["atol"]},
        "runs": len(samples),
        "latency_p50_ms": median(samples) / 1e6,
        "latency_best_ms": min(window_medians(samples)) / 1e6,
        "slowdown": stretches.during()["slowdown"] if slowed else 1.0,
    }


def _timed(call: Call, pace: Pace) -> Stretches:
    """Run until there is enough at full pace, or time is over; at least once."""
    stretches = Stretches(pace)
    end_s = now_s() + _LONGEST_S
    while stretches.at_full_pace()[1] < _SECONDS and now_s() < end_s:
        stretches.run(call, _MOST_RUNS, now_s() + STRETCH_S)
    return stretches


def _array(path: Path) -> Any:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise RequestError("bad_manifest", f"{path.name} is not an array file: {str(error)[:200]}") from error


def _why_wrong(found: Sequence[Any], wanted: Sequence[Any], rtol: float, atol: float) -> str:
    """Return what is wrong with the answers; numbers that are not finite are wrong even where they agree."""
    if not _same_shapes(found, wanted):
        return f"it answers with shapes {_shapes(found)}, expected were {_shapes(wanted)}"
    for arrays, what in ((found, "its answer"), (wanted, "the golden output")):
        if not all(_finite(each) for each in arrays):
            return f"{what} has values that are not finite"
    if not all(bool(np.allclose(a, b, rtol=rtol, atol=atol)) for a, b in zip(found, wanted)):
        return f"its answer differs from the golden output by up to {_max_abs_error(found, wanted):.3g}"
    return ""


def _shapes(arrays: Sequence[Any]) -> list[Any]:
    return [np.shape(each) for each in arrays]


def _same_shapes(found: Sequence[Any], wanted: Sequence[Any]) -> bool:
    return _shapes(found) == _shapes(wanted)


def _finite(values: Any) -> bool:
    return bool(np.isfinite(np.asarray(values, float)).all())


def _max_abs_error(found: Sequence[Any], wanted: Sequence[Any]) -> Optional[float]:
    if not _same_shapes(found, wanted) or not all(_finite(each) for each in (*found, *wanted)):
        return None
    pairs = zip(found, wanted)
    return max(
        float(np.max(np.abs(np.asarray(a, float) - np.asarray(b, float)), initial=0.0)) for a, b in pairs
    )
