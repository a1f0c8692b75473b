"""Taking channels, heads, blocks and weights out of a model: importance, plans, the slimmed module."""

from __future__ import annotations

from pipeline.prune.connections import Connections, connection_plan, hold_masks, masks_of
from pipeline.prune.criteria import CRITERIA, Criterion, score
from pipeline.prune.optimiser import remap_optimiser
from pipeline.prune.plan import SlimmingPlan, model_digest
from pipeline.prune.saved import load, save
from pipeline.prune.slim import SlimmingWarning, slim
from pipeline.prune.uniform import most_important, uniform_plan
from pipeline.prune.widths import round_width

__all__ = [
    "CRITERIA",
    "Connections",
    "Criterion",
    "SlimmingPlan",
    "SlimmingWarning",
    "connection_plan",
    "hold_masks",
    "load",
    "masks_of",
    "model_digest",
    "most_important",
    "remap_optimiser",
    "round_width",
    "save",
    "score",
    "slim",
    "uniform_plan",
]
