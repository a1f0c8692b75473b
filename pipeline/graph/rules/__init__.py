"""What each family of operators does to the units its tensors carry: one small rule a family."""

from __future__ import annotations

from pipeline.graph.rules import (
    attention,
    checks,
    convolution,
    creation,
    elementwise,
    embedding,
    indexing,
    joining,
    linear,
    normalisation,
    padding,
    recurrent,
    reduction,
    reshaping,
    selection,
    shuffling,
    softmax,
    spatial,
)
from pipeline.graph.rules.registry import RULES, Buffer, Rule, apply, freeze_all, rule

__all__ = [
    "RULES",
    "Buffer",
    "Rule",
    "apply",
    "attention",
    "checks",
    "convolution",
    "creation",
    "elementwise",
    "embedding",
    "freeze_all",
    "indexing",
    "joining",
    "linear",
    "normalisation",
    "padding",
    "recurrent",
    "reduction",
    "reshaping",
    "rule",
    "selection",
    "shuffling",
    "softmax",
    "spatial",
]
