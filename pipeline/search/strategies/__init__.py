"""Searches for widths, all behind one protocol: ask for a plan, measure it, tell what was seen.

protocol → base → bisection → uniform, sensitivity; netadapt; random_plans → evolutionary; feedback (the default)
"""

from collections.abc import Callable

from pipeline.search.strategies.evolutionary import Evolutionary
from pipeline.search.strategies.feedback import ExactFeedback, never_slower
from pipeline.search.strategies.netadapt import NetAdapt
from pipeline.search.strategies.protocol import Loss, Outlook, Proposal, Seen, Start, Strategy
from pipeline.search.strategies.random_plans import RandomPlans
from pipeline.search.strategies.sensitivity import Sensitivity
from pipeline.search.strategies.uniform import Uniform

STRATEGIES: dict[str, Callable[[Start], Strategy]] = {
    each.name: each for each in (ExactFeedback, Uniform, Sensitivity, NetAdapt, Evolutionary, RandomPlans)
}
DEFAULT = ExactFeedback.name

__all__ = [
    "DEFAULT",
    "STRATEGIES",
    "Evolutionary",
    "ExactFeedback",
    "Loss",
    "NetAdapt",
    "Outlook",
    "Proposal",
    "RandomPlans",
    "Seen",
    "Sensitivity",
    "Start",
    "Strategy",
    "Uniform",
    "never_slower",
]
