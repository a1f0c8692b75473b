"""Choosing widths: layers timed by the device, costs as linear terms, exact allocation within the limits.

shapes → layer_models → (the device times them) → table → costs → milp, or greedy
"""

from pipeline.search.allocate import Allocation, Allocator, CostRow, Problem
from pipeline.search.choice import searchable
from pipeline.search.costs import build_problem, model_peak_bytes, weight_bytes
from pipeline.search.greedy import GreedyAllocator
from pipeline.search.importance import kept_indices, kept_shares
from pipeline.search.layer_models import build_layer_model
from pipeline.search.milp import MilpAllocator
from pipeline.search.sensitivity import loss_curves, shares_kept
from pipeline.search.shapes import EMPTY, LayerShape, candidate_widths, table_shapes
from pipeline.search.table import LatencyTable, TimedShape

__all__ = [
    "EMPTY",
    "Allocation",
    "Allocator",
    "CostRow",
    "GreedyAllocator",
    "LatencyTable",
    "LayerShape",
    "MilpAllocator",
    "Problem",
    "TimedShape",
    "build_layer_model",
    "build_problem",
    "candidate_widths",
    "kept_indices",
    "kept_shares",
    "loss_curves",
    "model_peak_bytes",
    "searchable",
    "shares_kept",
    "table_shapes",
    "weight_bytes",
]
