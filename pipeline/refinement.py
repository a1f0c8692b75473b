"""Before a search measures anything: the plan that the table leads to, refined by the losses of whole plans."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from pipeline.feedback import Corrected
from pipeline.search import Allocator, Refined, refine
from pipeline.search.strategies import Loss, never_slower
from pipeline.survey import Survey
from pipeline.watch import Advance
from pipeline.workshop import Workshop

ROUNDS = 4  # together at most twice the losses that the curves of single groups take
WORTH = 0.01  # a round that lowers the loss by a smaller share is the last


def refined(shop: Workshop, outlook: Corrected, loss: Loss, allocator: Allocator, name: str) -> Survey:
    """Return the ground of `outlook` with loss curves that were taken around the best plan within its limits.

    Where no plan is predicted to fit, or no step lowered the loss, it is the ground as it was. Each round is a recorded
    step of the run, called `name` and its number; it takes two losses a group.
    """
    ground, problem = outlook.ground, never_slower(outlook.problem())

    def first(_: Advance) -> tuple[Refined, ...]:
        plan = allocator.allocate(problem)
        if not plan.feasible or plan.widths == ground.full() or len(plan.widths) == 1:
            return ()
        curves = {group: [float(rise) for rise in rises] for group, rises in ground.rises.items()}
        return (Refined(curves, {}, plan.widths, loss(plan.widths)),)

    def another(now: Refined, advance: Advance) -> Refined:
        return refine(problem, now, loss, allocator, lambda done, of: advance(done=done, of=of))

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
