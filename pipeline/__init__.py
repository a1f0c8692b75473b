"""Prune a PyTorch model until it measurably fits one small board, then leave it running there.

Public names load on first use, so that `import pipeline` stays quick and needs no torch:

    graph = pipeline.trace(model, example_inputs)
    plan = pipeline.uniform_plan(graph, keep=0.5)
    smaller = pipeline.slim(model, plan)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.graph import DependencyGraph, trace
    from pipeline.prune import (
        SlimmingPlan,
        SlimmingWarning,
        connection_plan,
        hold_masks,
        load,
        masks_of,
        remap_optimiser,
        save,
        slim,
        uniform_plan,
    )

__version__ = "0.1.0"
__all__ = [
    "DependencyGraph",
    "SlimmingPlan",
    "SlimmingWarning",
    "__version__",
    "connection_plan",
    "hold_masks",
    "load",
    "masks_of",
    "remap_optimiser",
    "save",
    "slim",
    "trace",
    "uniform_plan",
]

_HOMES = {name: "pipeline.prune" for name in __all__ if name != "__version__"}
_HOMES.update(DependencyGraph="pipeline.graph", trace="pipeline.graph")


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
