"""NetAdapt: step by step towards the budget, one group a step."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.search.allocate import Problem
from pipeline.search.strategies.base import Search, choice_of, frozen, widths_at
from pipeline.search.strategies.protocol import Proposal

DECAY = 0.96  # of a step, to the next one: Yang et al. 2018, section 5


class NetAdapt(Search):
    """Each step lowers every overrun budget's cost by a share of what is left, at the smallest loss.

    Yang et al. 2018, "NetAdapt", algorithm 1: for each group alone, the widest width whose predicted costs reach the
    step's targets (ChooseNumFilters); of these proposals the one with the smallest loss (PickHighestAccuracy), here
    before any training, is measured, and the next step starts from its measured costs. The step sizes decay by 4 %
    and are such that the measurements allowed reach the budgets.
    """

    name = "netadapt"

    def _next(self) -> Proposal | None:
        problem = self.outlook.problem()
        current = choice_of(problem, self.told[-1][0].widths) if self.told else problem.full()
        if self.told and self.fits(self.told[-1][1]):
            self.why = "the budgets are met"
            return None
        targets = self._targets(problem, current)
        proposals = list(_narrowed(problem, current, targets))
        known = self.known()
        proposals = [one for one in proposals if frozen(widths_at(problem, one)) not in known]
        if not proposals:
            self.why = "no group alone can be narrowed to come nearer"
            return None
        best = min(proposals, key=lambda one: self._loss(problem, one))
        changed = next(name for name in best if best[name] != current[name])
        width = problem.widths[changed][best[changed]]
        return self.propose(problem, best, f"step {len(self.told) + 1}: {changed} to {width}")

    def _targets(self, problem: Problem, current: dict[str, int]) -> dict[str, float]:
        """Return what each limited resource may cost after this step."""
        steps = self.start.measurements - len(self.told)
        share = (1 - DECAY) / (1 - DECAY**steps)
        now = problem.predicted(current)
        return {
            name: max(limit, now[name] - share * (now[name] - limit))
            for name, limit in problem.limits.items()
        }

    def _loss(self, problem: Problem, choice: dict[str, int]) -> float:
        if self.start.loss is None:
            return -problem.importance(choice)
        return self.start.loss(widths_at(problem, choice))


def _narrowed(
    problem: Problem, current: dict[str, int], targets: dict[str, float]
) -> Iterator[dict[str, int]]:
    """Yield one proposal a group: its widest width that reaches the targets; else those that come nearest."""
    reaching, nearest = [], []
    before = _excess(problem, current, targets)
    for name, position in current.items():
        options = [{**current, name: narrower} for narrower in reversed(range(position))]
        excesses = [_excess(problem, option, targets) for option in options]
        found = next((option for option, left in zip(options, excesses, strict=True) if left <= 0), None)
        if found is not None:
            reaching.append(found)
        elif options and min(excesses) < before:
            nearest.append((min(excesses), name, options[excesses.index(min(excesses))]))
    if reaching:
        yield from reaching
    elif nearest:
        yield min(nearest, key=lambda each: each[:2])[2]


def _excess(problem: Problem, choice: dict[str, int], targets: dict[str, float]) -> float:
    """Return the largest share by which a cost is above its target; 0 or less where all are reached."""
    costs = problem.predicted(choice)
    return max((costs[name] / target - 1 if target > 0 else costs[name]) for name, target in targets.items())
