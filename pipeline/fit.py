"""Fit: a search asks for widths, the slimmed model is built and measured on the device, the search is told; again.

A round costs an export and a measurement, a few seconds: nothing is trained here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.candidate import Built, Candidate
from pipeline.errors import DeviceError
from pipeline.feedback import Corrected, Feedback
from pipeline.profile import Limit
from pipeline.refinement import refined
from pipeline.search import Allocator, kept_indices
from pipeline.search.strategies import (
    DEFAULT,
    STRATEGIES,
    ExactFeedback,
    Proposal,
    Seen,
    Start,
    Strategy,
)
from pipeline.survey import Survey, loss_at
from pipeline.watch import Advance
from pipeline.workshop import Workshop

LOOK_AT_LOSS = frozenset({"netadapt", "evolutionary"})  # searches that judge plans by the loss, as published
MISSING = {"model_peak": "model_peak_bytes", "energy": "energy_mj"}  # budget → what a measurement calls it


@dataclass(frozen=True)
class Fitted:
    """How a fit ended: the best candidate that meets the budgets, all that were measured, and what was learnt.

    `binding` names the resources in the way of the plan that was asked for last; `why` says why the search ended, and
    `ground` is what the widths were chosen on: the default strategy takes the loss curves anew around the plan.
    """

    best: Candidate | None
    candidates: tuple[Candidate, ...]
    feedback: Feedback
    binding: tuple[str, ...]
    why: str
    ground: Survey


@dataclass(frozen=True)
class End:
    """After how many rounds a search ended, and why; recorded, so that a resumed run does not search on."""

    rounds: int
    why: str


def fit(
    shop: Workshop,
    start: Candidate,
    ground: Survey,
    limits: Sequence[Limit],
    feedback: Feedback,
    allocator: Allocator,
    *,
    first: int,
    rounds: int,
    strategy: str = DEFAULT,
) -> Fitted:
    """Run up to `rounds` rounds of ask → slim → convert → push → measure → tell; each is a few recorded steps.

    Widths are taken from `start`, on `ground`, whose loss curves the default strategy takes anew around its plan unless
    that was done. `first` is the number of the first round; `strategy` is one of `STRATEGIES`;
    `allocator` serves the default one alone.

    Raises:
        DeviceError: a budget is on something that the device could not measure.
    """
    _require_measured(start, limits)
    outlook, measured_loss = Corrected(ground, tuple(limits), feedback), _Loss(shop, start.built, ground)
    if strategy == DEFAULT and not ground.near:
        ground = refined(shop, outlook, measured_loss, allocator, f"fit {first}: refine")
        outlook = replace(outlook, ground=ground)
    loss = measured_loss if strategy in LOOK_AT_LOSS else None
    search = _search(strategy, Start(outlook, rounds, shop.task.seed, loss, ground.near), allocator)
    tried: list[Candidate] = []
    merits: list[float] = []
    binding: tuple[str, ...] = ()
    end = f"search from fit {first}: end"
    most = shop.note(end, End, _unreachable).rounds if shop.has(end) else rounds
    for number in range(first, first + most):
        name = f"fit {number}"
        proposal = _ask(shop, search, name)
        if proposal is None:
            break
        binding = proposal.binding
        candidate = _measure(shop, start, outlook, proposal, name)
        tried.append(candidate)
        seen = Seen(candidate.measurement, None if loss is None else loss.recorded(name, proposal.widths))
        merits.append(proposal.kept_importance if seen.loss is None else -seen.loss)
        search.tell(proposal, seen)
        outlook = outlook.learn(proposal.widths, seen)
    ended = shop.note(end, End, lambda: End(len(tried), _reason(search)))
    shop.watch.say(f"search ended: {ended.why}")
    fitting = [number for number, candidate in enumerate(tried) if candidate.meets(limits)]
    best = tried[max(fitting, key=lambda number: merits[number])] if fitting else None
    return Fitted(best, tuple(tried), outlook.feedback, binding, ended.why, ground)


class _NothingMoreError(Exception):
    """A search has nothing more to ask for; no step is recorded then."""


def _ask(shop: Workshop, search: Strategy, name: str) -> Proposal | None:
    def work(_: Advance) -> Proposal:
        proposal = search.ask()
        if proposal is None:
            raise _NothingMoreError
        return proposal

    try:
        return shop.step(f"{name}: allocate", Proposal, work)
    except _NothingMoreError:
        return None


def _measure(
    shop: Workshop, start: Candidate, outlook: Corrected, proposal: Proposal, name: str
) -> Candidate:
    ground, widths = outlook.ground, proposal.widths
    plan = ground.graph.plan(kept_indices(ground.importance, widths))
    built = shop.step(f"{name}: slim and convert", Built, lambda _: shop.slim(start.built, plan, name))
    expected_ms = outlook.feedback.predict_ms(ground, widths)
    candidate = shop.candidate(
        name,
        "fit",
        built,
        widths={**start.widths, **widths},
        table_ms=ground.table_ms(widths),
        calibrated_ms=expected_ms,
        kept_importance=proposal.kept_importance,
    )
    measured_ms = candidate.measurement.latency_ms.p50
    shop.watch.say(f"expected {expected_ms:.4g} ms, {100 * (expected_ms / measured_ms - 1):+z.1f} % off")
    return candidate


def _search(strategy: str, start: Start, allocator: Allocator) -> Strategy:
    if strategy == ExactFeedback.name:
        return ExactFeedback(start, allocator)
    return STRATEGIES[strategy](start)


def _reason(search: Strategy) -> str:
    """Return why a search ended; where only the number of rounds stopped it, it is asked once more for that."""
    if not search.why:
        search.ask()
    return search.why


@dataclass(frozen=True)
class _Loss:
    """The loss on the calibration batches of the model cut to some widths."""

    shop: Workshop
    start: Built
    ground: Survey

    def __call__(self, widths: Mapping[str, int]) -> float:
        return loss_at(self.shop, self.ground, self.start, widths)

    def recorded(self, name: str, widths: Mapping[str, int]) -> float:
        """Return the loss at `widths`: a step of the run."""
        return self.shop.step(f"{name}: loss", float, lambda _: self(widths))


def _require_measured(start: Candidate, limits: Sequence[Limit]) -> None:
    """Refuse budgets that no measurement can ever meet, before anything is searched."""
    for resource, share in start.used(limits).items():
        if share == float("inf"):
            reason = start.measurement.missing.get(MISSING.get(resource, resource), "not measured")
            raise DeviceError(
                f"the budget for {resource} can't be held: the device could not measure the baseline's ({reason})",
                hint="drop this budget, or run on a device that measures it",
            )


def _unreachable() -> End:
    raise AssertionError("a finished step must not run again")
