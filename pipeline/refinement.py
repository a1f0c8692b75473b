"""Before a search measures anything: the plan that the table leads to, refined by the losses of whole plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from pipeline.candidate import Candidate
from pipeline.feedback import Corrected, Feedback
from pipeline.profile import Limit
from pipeline.search import Allocator, Refined, refine
from pipeline.search.strategies import never_slower
from pipeline.survey import Survey, loss_at
from pipeline.watch import Advance
from pipeline.workshop import Workshop

ROUNDS = 4  # together at most twice the losses that the curves of single groups take
WORTH = 0.01  # a round that lowers the loss by a smaller share is the last


def refined(
    shop: Workshop,
    start: Candidate,
    ground: Survey,
    limits: Sequence[Limit],
    feedback: Feedback,
    allocator: Allocator,
    name: str,
) -> Survey:
    """Return the ground with loss curves that were taken around the best plan within `limits`.

    Where no plan is predicted to fit, or no step lowered the loss, it is `ground` itself. Each round is a recorded
    step of the run, called `name` and its number; it takes two losses a group.
    """
    problem = never_slower(Corrected(ground, tuple(limits), feedback).problem())
    measure = partial(loss_at, shop, ground, start.built)

    def first(_: Advance) -> tuple[Refined, ...]:
        plan = allocator.allocate(problem)
        if not plan.feasible or plan.widths == ground.full() or len(plan.widths) == 1:
            return ()
        curves = {group: [float(rise) for rise in rises] for group, rises in ground.rises.items()}
        return (Refined(curves, {}, plan.widths, measure(plan.widths)),)

    def another(now: Refined, advance: Advance) -> Refined:
        return refine(problem, now, measure, allocator, lambda done, of: advance(done=done, of=of))

    found = shop.step(f"{name} 0", tuple[Refined, ...], first)
    if not found:
        return ground
    losses, now = [found[0].loss], found[0]
    for number in range(1, ROUNDS + 1):
        before, now = now, shop.step(f"{name} {number}", Refined, partial(another, now))
        losses.append(now.loss)
        if now.loss > (1 - WORTH) * before.loss:
            break
    shop.watch.say(f"loss of the plan, refined: {', '.join(f'{loss:.3g}' for loss in losses)}")
    return replace(ground, rises=now.curves, near=now.near)
