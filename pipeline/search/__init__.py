"""Choosing widths: layers timed by the device, costs as linear terms, exact allocation within the limits.

staircase (which widths) → shapes → layer_models → layer_clock (cache, or the device) → table → costs → milp, or greedy
"""

from pipeline.search.allocate import Allocation, Allocator, CostRow, Problem
from pipeline.search.choice import searchable
from pipeline.search.company import front_shapes, pair_shapes
from pipeline.search.costs import build_problem, model_peak_bytes, weight_bytes
from pipeline.search.greedy import GreedyAllocator
from pipeline.search.importance import kept_indices, kept_shares
from pipeline.search.layer_clock import ANCHORS, LayerClock, LayerFile, repeated, timing_noise
from pipeline.search.layer_models import build_layer_model
from pipeline.search.milp import MilpAllocator
from pipeline.search.refine import Near, Refined, refine, staying
from pipeline.search.sensitivity import loss_curves, shares_kept
from pipeline.search.shapes import EMPTY, LayerShape, PairShape, Shape, candidate_widths, table_shapes
from pipeline.search.staircase import Staircase, Stairs, expected_shapes
from pipeline.search.table import LatencyTable, TimedShape, times_of
from pipeline.search.table_cache import TableCache
from pipeline.search.units import Scores, Units, choose_units

__all__ = [
    "ANCHORS",
    "EMPTY",
    "Allocation",
    "Allocator",
    "CostRow",
    "GreedyAllocator",
    "LatencyTable",
    "LayerClock",
    "LayerFile",
    "LayerShape",
    "MilpAllocator",
    "Near",
    "PairShape",
    "Problem",
    "Refined",
    "Scores",
    "Shape",
    "Staircase",
    "Stairs",
    "TableCache",
    "TimedShape",
    "Units",
    "build_layer_model",
    "build_problem",
    "candidate_widths",
    "choose_units",
    "expected_shapes",
    "front_shapes",
    "kept_indices",
    "kept_shares",
    "loss_curves",
    "model_peak_bytes",
    "pair_shapes",
    "refine",
    "repeated",
    "searchable",
    "shares_kept",
    "staying",
    "table_shapes",
    "times_of",
    "timing_noise",
    "weight_bytes",
]
