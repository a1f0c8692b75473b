"""Which channels of a model hang together: capture, propagation rules, pruning groups."""

from __future__ import annotations

from pipeline.graph.groups import (
    Block,
    ComputeLayer,
    DependencyGraph,
    FrozenDimension,
    LiveSet,
    Member,
    PruningGroup,
)
from pipeline.graph.trace import trace

__all__ = [
    "Block",
    "ComputeLayer",
    "DependencyGraph",
    "FrozenDimension",
    "LiveSet",
    "Member",
    "PruningGroup",
    "trace",
]
