"""Allocation by the steepest step: needs no solver, always ends, proves nothing."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.search.allocate import Allocation, Problem, answer, widened

NEGLIGIBLE = 1e-12


class GreedyAllocator:
    """Narrows the group that frees the most of the overrun budgets per importance lost, from full widths on.

    In the manner of NetAdapt (Yang et al. 2018, algorithm 1), with predicted costs. A step may skip widths,
    since latency is a staircase. When all limits hold, what turned out to be narrowed for nothing is
    widened again.
    """

    name = "greedy"

    def allocate(self, problem: Problem) -> Allocation:
        """Return widths within the limits, or the nearest ones found; optimal only when nothing is cut."""
        choice = problem.full()
        while problem.overruns(choice):
            step = max(_steps(problem, choice), default=None)
            if step is None:
                return answer(problem, choice, solver=self.name, optimal=False, gap=1.0)
            _, _, position, name = step
            choice[name] = position
        choice = widened(problem, choice)
        lost = max(problem.importance(problem.full()) - problem.importance(choice), 0.0)
        return answer(problem, choice, solver=self.name, optimal=lost <= NEGLIGIBLE, gap=lost)


def _steps(problem: Problem, choice: dict[str, int]) -> Iterator[tuple[float, int, int, str]]:
    """Yield (overrun removed per importance lost, minus group number, position, group) of useful steps."""
    before = sum(problem.overruns(choice).values())
    for number, (name, position) in enumerate(choice.items()):
        for narrower in range(position):
            freed = before - sum(problem.overruns({**choice, name: narrower}).values())
            if freed > NEGLIGIBLE:
                lost = float(problem.kept[name][position] - problem.kept[name][narrower])
                yield freed / max(lost, NEGLIGIBLE), -number, narrower, name
