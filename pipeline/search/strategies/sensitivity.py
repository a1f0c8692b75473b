"""One threshold on the loss that each group's cut costs alone."""

from __future__ import annotations

from pipeline.search.allocate import Problem
from pipeline.search.strategies.bisection import Bisection


class Sensitivity(Bisection):
    """Every group is cut as far as its own loss curve stays below a threshold, the same one for all.

    Li et al. 2017, "Pruning Filters for Efficient ConvNets", section 3.3: layers that are sensitive to pruning are
    pruned less. There the cuts were set by hand from the curves; here the threshold is bisected on what the device
    measures. What a cut saves is not looked at, so a cheap group is cut as deep as a dear one.
    """

    name = "sensitivity"

    def row(self, problem: Problem) -> list[tuple[float, dict[str, int]]]:
        """Each threshold at which some group steps; the highest one first, since it cuts the most."""
        rises = {name: kept[-1] - kept for name, kept in problem.kept.items() if name in problem.widths}
        thresholds = sorted({float(rise) for curve in rises.values() for rise in curve} | {0.0}, reverse=True)
        steps = []
        for threshold in thresholds:
            choice = {
                name: next(position for position, rise in enumerate(curve) if rise <= threshold)
                for name, curve in rises.items()
            }
            steps.append((threshold, choice))
        whole = (-1.0, problem.full())  # groups that lose nothing are cut even at 0
        return [*steps, whole]
