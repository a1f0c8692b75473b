"""How much each unit of each group matters. A criterion is a small function object, registered by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.prune.criteria.magnitude import Magnitude
from pipeline.prune.criteria.taylor import Taylor
from pipeline.prune.plan import model_digest

if TYPE_CHECKING:
    from pipeline.graph.groups import DependencyGraph

Batches = Iterable[tuple[Tensor, Tensor]]


class Criterion(Protocol):
    """Scores every unit of every group; higher matters more."""

    @property
    def needs_data(self) -> bool:
        """Whether batches of real data must be given."""

    def __call__(
        self, model: nn.Module, graph: DependencyGraph, batches: Batches | None
    ) -> dict[str, Tensor]:
        """Return for each group its scores, shape (width,), float64 on the CPU, none negative."""


CRITERIA: dict[str, Criterion] = {"l1": Magnitude(1), "l2": Magnitude(2), "taylor": Taylor()}


def score(
    model: nn.Module, graph: DependencyGraph, criterion: str, batches: Batches | None = None
) -> dict[str, Tensor]:
    """Return the importance of every unit, by group; the model is unchanged afterwards.

    Args:
        model: the model that was traced, or the same with other weights.
        graph: its dependency graph.
        criterion: "l1", "l2", "taylor" or another name in `CRITERIA`.
        batches: (inputs as the model takes them, integer targets); needed for "taylor".

    Raises:
        ModelError: the criterion is unknown, needs data and got none, or the graph is of another model.
    """
    if criterion not in CRITERIA:
        raise ModelError(f"unknown importance {criterion!r}", hint=f"known are {', '.join(sorted(CRITERIA))}")
    if model is not graph.model and model_digest(model) != graph.model_digest:
        raise ModelError(f"the graph is of another model than this {type(model).__name__}", hint="trace it")
    chosen = CRITERIA[criterion]
    if chosen.needs_data and batches is None:
        raise ModelError(
            f"importance {criterion!r} needs batches of real data", hint="give (inputs, targets)"
        )
    return chosen(model, graph, batches)
