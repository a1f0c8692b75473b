"""Times every operator of a model, in a pass of its own: the runtime's profiler slows inference down."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from device_agent.measure.inputs import prebuilt
from device_agent.measure.runtimes import NoProfilerError, OperatorCall, Runtime, Session, first_line
from device_agent.measure.timing import now_s, timed_runs
from device_agent.statistics import percentile

_PROBE_RUNS = 2  # tell how many operators there are
_MOST_CALLS = 12_000  # of all operators together: what a worker may write and hold is limited
_MOST_RUNS = 200
_LONGEST_S = 2.0
_WARM_SHARE = 5  # of the calls of each operator, the first fifth is not counted


def measure(runtime: Runtime, path: Path, threads: int) -> tuple[Optional[list[dict[str, Any]]], str]:
    """Return one row an operator in the order of their first call, or `None` and why there are none.

    A row has name, kind, calls (how many were counted), p50_ms and share of the sum over all operators. The profiler
    counts in whole microseconds, so that the p50 of a short operator is coarse; the share is made from the mean of
    the middle half of its calls, which is finer, and blind to a few calls that something else interrupted.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            probed = _pass(runtime, path, threads, Path(folder), _PROBE_RUNS)
            fit = _MOST_CALLS * _PROBE_RUNS // max(1, len(probed))
            calls = (
                _pass(runtime, path, threads, Path(folder), min(_MOST_RUNS, fit))
                if fit > _PROBE_RUNS
                else probed
            )
    except NoProfilerError as none:
        return None, str(none)
    except Exception as error:  # noqa: BLE001 - a runtime may raise anything; the latency is known all the same
        return None, f"the runtime's profiler failed: {first_line(error)}"
    return (rows(calls), "") if calls else (None, "the runtime's profiler saw no operator")


def rows(calls: Sequence[OperatorCall]) -> list[dict[str, Any]]:
    """Put the calls of each operator together."""
    found: dict[tuple[str, str], list[float]] = {}
    for call in calls:
        found.setdefault((call.name, call.kind), []).append(call.duration_us)
    counted = {key: sorted(durations[len(durations) // _WARM_SHARE :]) for key, durations in found.items()}
    sums_us = {key: _middle(durations) * len(durations) for key, durations in counted.items()}
    total_us = sum(sums_us.values())
    return [
        {
            "name": name,
            "kind": kind,
            "calls": len(durations),
            "p50_ms": percentile(durations, 50) / 1e3,
            "share": sums_us[name, kind] / total_us if total_us else 0.0,
        }
        for (name, kind), durations in counted.items()
    ]


def _middle(ordered: Sequence[float]) -> float:
    """Return the mean of the middle half of ascending values."""
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    return sum(middle) / len(middle)


def _pass(runtime: Runtime, path: Path, threads: int, folder: Path, runs: int) -> list[OperatorCall]:
    def use(session: Session) -> None:
        timed_runs(session.prepare(prebuilt(session.inputs)), array("q"), runs, now_s() + _LONGEST_S)

    return runtime.profile(path, threads, folder, use)
