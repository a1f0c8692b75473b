"""Taking channels out of a model: importance, plans, and the slimmed module."""

from __future__ import annotations

from pipeline.prune.criteria import CRITERIA, Criterion, score
from pipeline.prune.plan import SlimmingPlan, model_digest
from pipeline.prune.slim import slim
from pipeline.prune.uniform import most_important, uniform_plan

__all__ = [
    "CRITERIA",
    "Criterion",
    "SlimmingPlan",
    "model_digest",
    "most_important",
    "score",
    "slim",
    "uniform_plan",
]
