"""The plan to compare against: the same share of every group, the least important units first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipeline.errors import ModelError
from pipeline.prune.criteria import score
from pipeline.prune.plan import SlimmingPlan

if TYPE_CHECKING:
    from pipeline.graph.groups import DependencyGraph


def uniform_plan(
    graph: DependencyGraph,
    keep: float = 0.5,
    importance: str | Mapping[str, Tensor] = "l1",
    multiple_of: int = 1,
    ignore: Collection[str] = (),
) -> SlimmingPlan:
    """Keep the same share of units in every group.

    Args:
        graph: the traced model.
        keep: share of units to keep, above 0 up to 1.
        importance: "l1" or "l2" (of the weights as traced), or scores as `score` returns them.
        multiple_of: round widths to the nearest multiple, at least one; a narrower group stays whole.
        ignore: names of groups to leave whole.

    Raises:
        ModelError: `keep` or `multiple_of` is out of range, `ignore` or `importance` does not fit.
    """
    if not 0.0 < keep <= 1.0 or multiple_of < 1:
        raise ModelError(
            f"keep={keep} and multiple_of={multiple_of} give no plan",
            hint="keep is a share above 0 up to 1, multiple_of at least 1",
        )
    unknown = sorted(set(ignore) - {group.name for group in graph.groups})
    if unknown:
        raise ModelError(f"ignore: no pruning group is named {unknown[0]!r}", hint="graph.groups lists them")
    scores = score(graph.model, graph, importance) if isinstance(importance, str) else importance
    chosen = {
        group.name: most_important(
            _scores(scores, group.name, group.width), _width(group.width, keep, multiple_of)
        )
        for group in graph.groups
        if group.name not in ignore
    }
    return graph.plan(chosen)


def most_important(scores: Tensor, count: int) -> list[int]:
    """Return the `count` units with the highest scores, ascending; of equals the lower index."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return sorted(int(unit) for unit in order[:count])


def _scores(scores: Mapping[str, Tensor], group: str, width: int) -> Tensor:
    found = scores.get(group)
    if found is None or found.shape != (width,):
        raise ModelError(
            f"importance has no {width} scores for group {group}", hint="score the model that was traced"
        )
    return found


def _width(width: int, keep: float, multiple_of: int) -> int:
    wanted = max(1, round(width * keep / multiple_of)) * multiple_of
    return min(width, wanted)
