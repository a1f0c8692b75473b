"""Which units go: for each group the criterion by which the whole loses least when all groups are cut together.

No criterion was the best one for all groups of the networks at hand (docs/search.md). What one is worth is seen in the
loss, and since cuts act on each other, in the loss of all groups cut at once. The plan is not known yet; half of every
group stands for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.search.importance import Floats, kept_indices
from pipeline.search.sensitivity import Done

Scores = Mapping[str, Floats]  # group → one value a unit; comparable within a group alone


@dataclass(frozen=True)
class Units:
    """What decides which units of a group stay.

    Attributes:
        importance: Group → one value a unit; the highest stay.
        criteria: Group → the criterion that its values are from, for the groups that may be cut.
        loss: Of the model cut to half of each group by this importance.
    """

    importance: dict[str, list[float]]
    criteria: dict[str, str]
    loss: float


def choose_units(
    scores: Mapping[str, Scores],
    halves: Mapping[str, int],
    measure: Callable[[Scores], float],
    done: Done,
) -> Units:
    """Choose each group's criterion by the loss of the model cut to `halves`.

    Coordinate descent: from the best single criterion for all groups, each group in turn takes another one where that
    lowers the loss. At most one loss a criterion, and one for each further criterion of each group.

    Args:
        scores: Criterion → the importance that it gives to the units of all groups; of equals the first is taken.
        halves: The width that each group that may be cut is tried at; all others stay whole.
        measure: The loss of the model in which these widths' most important units are kept.
        done: Is called with the number of points that are behind, and of all.
    """
    points = len(scores) + len(halves) * (len(scores) - 1)
    losses = {}
    for number, (criterion, values) in enumerate(scores.items()):
        losses[criterion] = measure(values)
        done(number + 1, points)
    first = min(losses, key=lambda criterion: losses[criterion])
    now, lowest, number = dict(scores[first]), losses[first], len(scores)
    criteria = dict.fromkeys(halves, first)
    for name, width in halves.items():
        tried = {kept_indices(now, {name: width})[name]}
        for criterion in (other for other in scores if other != first):
            trial = {**now, name: scores[criterion][name]}
            kept = kept_indices(trial, {name: width})[name]
            if kept not in tried:
                tried.add(kept)
                loss = measure(trial)
                if loss < lowest:
                    now, lowest, criteria[name] = trial, loss, criterion
            number += 1
            done(number, points)
    return Units({name: np.asarray(values).tolist() for name, values in now.items()}, criteria, lowest)
