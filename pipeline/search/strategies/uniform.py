"""One ratio for all groups."""

from __future__ import annotations

from pipeline.search.allocate import Problem
from pipeline.search.strategies.bisection import Bisection


class Uniform(Bisection):
    """Every group keeps the same share of its units; the share is bisected on what the device measures.

    What "uniform pruning" means in the literature, and the baseline that Li et al. 2017 and NetAdapt (Yang et al. 2018,
    section 5) compare with. No table and no importance decides how many units go; blocks are never dropped.
    """

    name = "uniform"

    def row(self, problem: Problem) -> list[tuple[float, dict[str, int]]]:
        """Each ratio at which some group steps; a group takes its widest candidate that is not above the ratio."""
        real = {name: [width for width in choices if width > 0] for name, choices in problem.widths.items()}
        ratios = sorted({width / widths[-1] for widths in real.values() for width in widths})
        steps = []
        for ratio in ratios:
            choice = {}
            for name, widths in real.items():
                below = [width for width in widths if width / widths[-1] <= ratio] or widths[:1]
                choice[name] = problem.widths[name].index(below[-1])
            steps.append((ratio, choice))
        return steps
