"""From the importance of single units to what a width keeps, and which units it keeps.

Units are kept in order of their importance, so a group's width alone decides which ones stay.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import ModelError

Floats = NDArray[np.float64]


def kept_shares(importance: Mapping[str, Floats], widths: Mapping[str, tuple[int, ...]]) -> dict[str, Floats]:
    """Return, for each group, the share of the model's whole importance that each of its widths keeps.

    `importance` holds one value a unit, comparable between groups. A width keeps its most important units;
    the full widths of all groups together keep 1. Where nothing is important, every unit counts the same.

    Raises:
        ModelError: a group's importance is missing, not finite, or not one value a unit.
    """
    for name, choices in widths.items():
        _check(name, importance.get(name), choices[-1])
    total = sum(float(np.sum(importance[name])) for name in widths)
    if total <= 0:
        units = sum(choices[-1] for choices in widths.values())
        return {name: np.array(choices) / units for name, choices in widths.items()}
    return {name: _best_sums(importance[name], choices) / total for name, choices in widths.items()}


def kept_indices(importance: Mapping[str, Floats], widths: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Return each group's `widths[group]` most important units, ascending; of equals the first stays."""
    kept = {}
    for name, width in widths.items():
        order = np.argsort(-np.asarray(importance[name]), kind="stable")
        kept[name] = tuple(sorted(int(unit) for unit in order[:width]))
    return kept


def _best_sums(values: Floats, choices: tuple[int, ...]) -> Floats:
    sums = np.concatenate([[0.0], np.cumsum(-np.sort(-np.asarray(values, np.float64)))])
    chosen: Floats = sums[list(choices)]
    return chosen


def _check(name: str, values: Floats | None, width: int) -> None:
    if values is None or np.shape(values) != (width,):
        raise ModelError(f"group {name!r} needs {width} importance values, one a unit")
    if not np.all(np.isfinite(values)):
        raise ModelError(
            f"the importance of group {name!r} is not finite",
            hint="the loss or its gradients overflow on the training data; check weights and preprocessing",
        )
