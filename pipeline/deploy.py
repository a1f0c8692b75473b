"""One deploy: from a PyTorch model and a profile to the model running on the device. This file is the program's road.

    baseline → limits → survey (graph, importance, latency table) → fit → recover → accept → activate → score

Each step takes recorded values and returns a new one; only this file knows the order. A step that finished is never
done again (`Run.step`), so a killed run goes on where it stopped.

The device's own measurements decide: a candidate is good when the whole slimmed model, converted and pushed, was
measured within every budget. `fit` trains nothing, since a dense model's latency, memory and file size do not depend
on its weights; only the fitted candidate is trained, once, and measured again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from pipeline import baseline as baselines
from pipeline.bundle import Bundle
from pipeline.candidate import Built, Candidate
from pipeline.convert import Agreement
from pipeline.errors import InfeasibleError
from pipeline.feedback import Feedback
from pipeline.fit import closest_miss, fit
from pipeline.profile import Limit
from pipeline.search import MilpAllocator
from pipeline.survey import Survey, survey
from pipeline.workshop import Workshop

FIT_ROUNDS = 3
CUTS = 2


@dataclass
class Record:
    """What is known of a deploy so far; the report is made from it, also when the deploy ends early."""

    baseline: Candidate | None = None
    limits: tuple[Limit, ...] = ()
    accuracy_floor: float | None = None
    survey: Survey | None = None
    candidates: tuple[Candidate, ...] = ()
    recovered: Candidate | None = None
    agreement: Agreement | None = None
    bundle: Bundle | None = None
    generation: int | None = None
    test_accuracy: tuple[float, float] | None = None


def deploy(shop: Workshop, record: Record) -> None:
    """Walk the whole road; `record` tells afterwards what was reached.

    Raises:
        InfeasibleError: no candidate meets the budgets; the device keeps what it had.
        PipelineError: a step failed; the run can be resumed.
    """
    shop.settle_threads()
    baseline = record.baseline = measure_baseline(shop)
    record.candidates = (baseline,)
    record.limits = tuple(budget.resolve(baseline.measurement) for budget in shop.profile.budgets)
    record.accuracy_floor = shop.accuracy_floor(baseline.validation_accuracy)
    if baseline.meets(record.limits):
        recovered = record.recovered = baseline  # it fits as it is: nothing is taken from it
    else:
        record.survey = survey(shop, baseline)
        recovered = shrink(shop, record, baseline, record.survey)
    check_accuracy(recovered, record.accuracy_floor)
    install(shop, record, recovered)
    record.test_accuracy = score_test(shop, baseline, recovered)


def measure_baseline(shop: Workshop) -> Candidate:
    """Convert the model as it is, and let the device measure it."""
    return shop.candidate("baseline", "baseline", baselines.prepare(shop), widths={})


def shrink(shop: Workshop, record: Record, baseline: Candidate, ground: Survey) -> Candidate:
    """Fit, then recover; again with what was learnt if the recovered model no longer holds the budgets."""
    feedback = Feedback().learn(ground, baseline)
    rounds_done = 0
    for cut in range(1, CUTS + 1):
        fitted = fit(
            shop,
            baseline,
            ground,
            record.limits,
            feedback,
            MilpAllocator(),
            first=rounds_done + 1,
            rounds=FIT_ROUNDS,
        )
        record.candidates += fitted.candidates
        rounds_done += len(fitted.candidates)
        if fitted.best is None:
            raise closest_miss(record.candidates, record.limits, fitted.binding)
        record.recovered = recover(shop, record, baseline, fitted.best, f"recovered {cut}")
        record.candidates += (record.recovered,)
        if record.recovered.meets(record.limits):
            return record.recovered
        feedback = fitted.feedback.learn(ground, record.recovered).cautious()
    raise closest_miss(record.candidates, record.limits, ())


def recover(shop: Workshop, record: Record, baseline: Candidate, fitted: Candidate, name: str) -> Candidate:
    """Train the fitted candidate once, convert it, check its numbers, and measure it again."""
    built = shop.step(
        f"{name}: train", Built, lambda advance: shop.recover(baseline.built, fitted, _file(name), advance)
    )
    record.agreement = shop.step(f"{name}: validate", Agreement, lambda _: shop.validate(built))
    recovered = shop.candidate(
        name,
        "recovered",
        built,
        widths=fitted.widths,
        table_ms=fitted.table_ms,
        calibrated_ms=fitted.measurement.latency_ms.p50,
        kept_importance=fitted.kept_importance,
    )
    if recovered.meets(record.limits):
        return recovered
    # The same widths met the budgets before, so this may be noise: one more measurement, and that one counts.
    again = shop.measure(f"{name}: measure again", built)
    return replace(recovered, measurement=again)


def check_accuracy(recovered: Candidate, floor: float) -> None:
    """Refuse a candidate whose validation accuracy is below the floor.

    Raises:
        InfeasibleError: it is.
    """
    if recovered.validation_accuracy < floor:
        raise InfeasibleError(
            f"the budgets can't be met: accuracy is in the way; {recovered.name!r} reached "
            f"{recovered.validation_accuracy:.2f} % on validation, the floor is {floor:.2f} %",
            hint="loosen the budget or the floor, or train longer in the task's [recover]",
        )


def install(shop: Workshop, record: Record, recovered: Candidate) -> None:
    """Bundle the winner, stage it on the device, check it there, then make it the active model."""
    bundle = record.bundle = shop.bundle(recovered.built, recovered.measurement)
    record.generation = shop.step("check and activate", int, partial(shop.check_and_activate, bundle))


def score_test(shop: Workshop, baseline: Candidate, recovered: Candidate) -> tuple[float, float]:
    """Score the baseline and the winner on the test set, which nothing before this has seen."""
    return shop.step(
        "score on the test set",
        tuple[float, float],
        lambda _: (shop.score_test(baseline.built), shop.score_test(recovered.built)),
    )


def _file(name: str) -> str:
    return name.replace(" ", "-")
