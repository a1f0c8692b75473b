"""What each family of operators does to the units its tensors carry: one small rule a family."""

from __future__ import annotations

from pipeline.graph.rules import (
    convolution,
    elementwise,
    joining,
    linear,
    normalisation,
    padding,
    reduction,
    reshaping,
    selection,
    spatial,
)
from pipeline.graph.rules.registry import RULES, Buffer, Rule, apply, freeze_all, rule

__all__ = [
    "RULES",
    "Buffer",
    "Rule",
    "apply",
    "convolution",
    "elementwise",
    "freeze_all",
    "joining",
    "linear",
    "normalisation",
    "padding",
    "reduction",
    "reshaping",
    "rule",
    "selection",
    "spatial",
]
