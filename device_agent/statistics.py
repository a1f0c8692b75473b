"""What is said about a row of times: percentiles with a rule when not to state them, spread, steadiness."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# runs below which a percentile is not stated: early stopping of MLPerf Inference at 99 % confidence
LEAST_RUNS = {"p90": 64, "p95": 130, "p99": 662}
WINDOWS = 5


def percentile(ordered: Sequence[float], percent: float) -> float:
    """Return a percentile of ascending values, interpolated between the two nearest."""
    place = (len(ordered) - 1) * percent / 100
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    """Return the median of values in any order."""
    return percentile(sorted(values), 50)


def summary_ms(samples_ns: Sequence[int]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the figures of `Latency` in milliseconds, and why the ones that are `None` are missing."""
    ordered = sorted(samples_ns)
    count = len(ordered)
    figures: dict[str, Any] = {"p50": percentile(ordered, 50) / 1e6}
    missing = {}
    for name, least in LEAST_RUNS.items():
        figures[name] = percentile(ordered, float(name[1:])) / 1e6 if count >= least else None
        if count < least:
            missing[f"latency_ms.{name}"] = f"needs {least} runs, had {count}"
    figures.update(mean=sum(ordered) / count / 1e6, min=ordered[0] / 1e6, max=ordered[-1] / 1e6)
    return figures, missing


def spread_ms(samples_ns: Sequence[int]) -> float:
    """Return the interquartile range in milliseconds: the width of the middle half of all samples."""
    ordered = sorted(samples_ns)
    return (percentile(ordered, 75) - percentile(ordered, 25)) / 1e6


def window_medians(samples_ns: Sequence[int]) -> list[float]:
    """Return the medians of five consecutive windows; of fewer samples than windows, the samples."""
    count = len(samples_ns)
    if count < WINDOWS:
        return [float(sample) for sample in samples_ns]
    edges = [count * window // WINDOWS for window in range(WINDOWS + 1)]
    return [median(samples_ns[a:b]) for a, b in zip(edges, edges[1:])]


def steadiness(samples_ns: Sequence[int]) -> float:
    """Return (max − min) of the medians of five consecutive windows, divided by the overall median.

    0 is perfectly steady; fewer samples than windows give 0, for there is nothing to compare.
    """
    if len(samples_ns) < WINDOWS:
        return 0.0
    medians = window_medians(samples_ns)
    return (max(medians) - min(medians)) / median(samples_ns)
