"""The plan to compare against: the same share of every group, the least important units first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.prune.criteria import score
from pipeline.prune.plan import SlimmingPlan
from pipeline.prune.widths import Rounding, Widths, round_width

if TYPE_CHECKING:
    from pipeline.graph.groups import DependencyGraph


def uniform_plan(
    graph: DependencyGraph,
    keep: float = 0.5,
    importance: str | Mapping[str, Tensor] = "l1",
    multiple_of: Widths | Mapping[str, Widths] = 1,
    ignore: Collection[str] = (),
    rounding: Rounding = "nearest",
) -> SlimmingPlan:
    """Keep the same share of units in every group.

    Where channels form a grid (attention heads by head width), the groups `within` others stay whole.

    Args:
        graph: the traced model.
        keep: share of units to keep, above 0 up to 1.
        importance: "l1" or "l2" (of the weights as they are now), or scores as `score` returns them.
        multiple_of: what widths are rounded to, for all groups or by group: multiples of a number, or the nearest
            of a set of widths. A group that is too narrow for any stays whole.
        ignore: names of groups to leave whole.
        rounding: whether widths go to the nearest such number, always "up", or always "down"; never to zero.

    Raises:
        ModelError: `keep` or `multiple_of` is out of range, `ignore` or `importance` does not fit.
    """
    if not 0.0 < keep <= 1.0:
        raise ModelError(f"keep={keep} gives no plan", hint="keep is a share above 0 up to 1")
    known = {group.name for group in graph.groups}
    widths = multiple_of if isinstance(multiple_of, Mapping) else dict.fromkeys(known, multiple_of)
    for argument, names in (("ignore", ignore), ("multiple_of", widths)):
        unknown = sorted(set(names) - known)
        if unknown:
            hint = "graph.groups lists them"
            raise ModelError(f"{argument}: no pruning group is named {unknown[0]!r}", hint=hint)
    scores = score(graph.model, graph, importance) if isinstance(importance, str) else importance
    chosen = {}
    for group in graph.groups:
        if group.name not in ignore and group.within is None:
            width = round_width(group.width * keep, group.width, widths.get(group.name, 1), rounding)
            chosen[group.name] = most_important(_scores(scores, group.name, group.width), width)
    return graph.plan(chosen)


def most_important(scores: Tensor, count: int) -> list[int]:
    """Return the `count` units with the highest scores, ascending; of equals the lower index."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return sorted(order[:count].tolist())


def _scores(scores: Mapping[str, Tensor], group: str, width: int) -> Tensor:
    found = scores.get(group)
    if found is None or found.shape != (width,):
        raise ModelError(
            f"importance has no {width} scores for group {group}", hint="score the model that was traced"
        )
    return found
