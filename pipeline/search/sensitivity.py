"""How much the loss really grows when one group alone is cut: importance that was measured, not estimated.

A first-order score (Taylor) adds up over units, but it prices a cut too low the deeper it goes: on ResNet-20 the
measured loss per share of Taylor importance was 2 to 5 times higher for halving a group than for dropping its whole
block. So each group is cut to a few of its widths, alone, and the loss is measured (Li et al. 2017, "Pruning Filters
for Efficient ConvNets", section 3.3: sensitivity of single layers; here with batch norms that know the cut). The
score still decides which units go; the curve decides how many.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from pipeline.search.allocate import Floats

PROBES = 4  # widths measured for each group, beside the full one

Measure = Callable[[Mapping[str, int]], float]
Done = Callable[[int, int], None]


def loss_curves(widths: Mapping[str, Sequence[int]], measure: Measure, done: Done) -> dict[str, list[float]]:
    """Return, for each group, the rise in loss at each of its widths while all other groups are whole.

    Between the measured widths the curve is a straight line; it never falls as a group becomes narrower.

    Args:
        widths: group → candidate widths, ascending, the full width last.
        measure: the loss of the model cut to the given widths (groups that are missing are whole).
        done: is called with the number of measured and of all points.
    """
    points = [(name, width) for name, choices in widths.items() for width in _probed(choices)]
    whole = measure({})
    found: dict[str, dict[int, float]] = {name: {choices[-1]: 0.0} for name, choices in widths.items()}
    for number, (name, width) in enumerate(points):
        found[name][width] = max(measure({name: width}) - whole, 0.0)
        done(number + 1, len(points))
    return {name: _curve(choices, found[name]) for name, choices in widths.items()}


def shares_kept(curves: Mapping[str, Sequence[float]]) -> dict[str, Floats]:
    """Turn loss curves into what an allocator maximises: the share of all avoidable loss that a width avoids.

    The full widths of all groups together keep 1, the narrowest ones 0. Where nothing raises the loss, every
    step of every group counts the same.
    """
    total = sum(curve[0] for curve in curves.values())
    if total <= 0:
        steps = sum(len(curve) - 1 for curve in curves.values()) or 1
        return {name: np.arange(len(curve)) / steps for name, curve in curves.items()}
    return {name: (curve[0] - np.asarray(curve, np.float64)) / total for name, curve in curves.items()}


def _probed(choices: Sequence[int]) -> list[int]:
    """Return the narrowest and up to `PROBES` - 1 evenly spaced further widths, without the full one."""
    last = len(choices) - 1
    positions = {round(number * last / PROBES) for number in range(PROBES)}
    return [choices[position] for position in sorted(positions) if position < last]


def _curve(choices: Sequence[int], found: Mapping[int, float]) -> list[float]:
    known = sorted(found)
    heights = np.maximum.accumulate([found[width] for width in known][::-1])[::-1]
    return [float(value) for value in np.interp(choices, known, heights)]
