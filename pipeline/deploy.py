"""One deploy: from a PyTorch model and a profile to the model running on the device. This file is the program's road.

    baseline → limits → variants → survey (graph, importance, latency table) → fit → recover → accept → activate → score

Each step takes recorded values and returns a new one; only this file knows the order. A step that finished is never
done again (`Run.step`), so a killed run goes on where it stopped.

The device's own measurements decide: a candidate is good when the whole slimmed model, converted and pushed, was
measured within every budget. `fit` trains nothing, since a dense model's latency, memory and file size do not depend
on its weights; only the fitted candidate is recovered, once a cut: its layers are fitted anew, it is trained, and
measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from pipeline import baseline as baselines
from pipeline.bundle import Bundle
from pipeline.candidate import Built, Candidate
from pipeline.convert import Agreement
from pipeline.errors import InfeasibleError, ModelError
from pipeline.feedback import Feedback
from pipeline.fit import Fitted, fit
from pipeline.infeasible import closest_miss
from pipeline.method import Method, epochs_of_cut, targets
from pipeline.profile import Limit
from pipeline.search import MilpAllocator
from pipeline.survey import Survey, loss_at, study, survey
from pipeline.variant import Variant
from pipeline.workshop import MEASURE_STEP, Workshop

TRIES = 2  # of recovering what was fitted: a measurement may miss a budget that an equal model had met


@dataclass(frozen=True)
class FittedVariant:
    """What fitting a variant gave: the candidate, and its loss on the calibration batches before any training."""

    candidate: Candidate
    loss: float


@dataclass
class Record:
    """What is known of a deploy so far; the report is made from it, also when the deploy ends early.

    `surveys` holds the ground that each candidate was found on by its name, and that of each whole model; `fitted` what
    came of each variant where there are several.
    """

    baseline: Candidate | None = None
    limits: tuple[Limit, ...] = ()
    accuracy_floor: float | None = None
    surveys: dict[str, Survey] = field(default_factory=dict)
    fitted: dict[str, FittedVariant] = field(default_factory=dict)
    candidates: tuple[Candidate, ...] = ()
    recovered: Candidate | None = None
    agreement: Agreement | None = None
    bundle: Bundle | None = None
    generation: int | None = None
    test_accuracy: tuple[float, float] | None = None


@dataclass(frozen=True)
class Stand:
    """Where a variant stands on its way to the budgets: the model to take from, and what is known of it."""

    shop: Workshop
    start: Candidate
    ground: Survey
    feedback: Feedback


def deploy(shop: Workshop, record: Record, method: Method) -> None:
    """Walk the whole road; `record` tells afterwards what was reached.

    Raises:
        InfeasibleError: no candidate meets the budgets; the device keeps what it had.
        PipelineError: a step failed; the run can be resumed.
    """
    shop.settle_host()
    baseline = record.baseline = measure_baseline(shop)
    record.candidates = (baseline,)
    record.limits = tuple(budget.resolve(baseline.measurement) for budget in shop.profile.budgets)
    record.accuracy_floor = shop.accuracy_floor(baseline.validation_accuracy)
    record.candidates += measure_variants(shop, baseline)
    whole = [each for each in record.candidates if each.meets(record.limits)]
    if whole:  # it fits as it is: nothing is taken from it
        recovered = record.recovered = min(whole, key=lambda each: each.measurement.latency_ms.p50)
        record.agreement = validate(shop.running(recovered.variant), "baseline", recovered.built)
    else:
        recovered = shrink(shop, record, baseline, method)
    check_accuracy(recovered, record.accuracy_floor, record.candidates)
    install(shop.running(recovered.variant), record, recovered)
    record.test_accuracy = score_test(shop, baseline, recovered)


def measure_baseline(shop: Workshop) -> Candidate:
    """Convert the model as it is, and let the device measure it."""
    return shop.candidate("baseline", "baseline", baselines.prepare(shop), widths={})


def measure_variants(shop: Workshop, baseline: Candidate) -> tuple[Candidate, ...]:
    """Have the whole model measured in every other variant that the profile names and the device has."""
    found = []
    for variant in shop.note("variants", tuple[Variant, ...], partial(_variants, shop)):
        other = shop.running(variant)
        try:
            built = other.step("baseline: convert", Built, partial(_convert, other, baseline.built))
        except ModelError as error:
            shop.watch.say(f"left out: {variant}; {error.message}")
            continue
        accuracy = baseline.validation_accuracy
        found.append(other.candidate("baseline", "baseline", built, widths={}, accuracy=accuracy))
    return tuple(found)


def shrink(shop: Workshop, record: Record, baseline: Candidate, method: Method) -> Candidate:
    """Fit, then recover; again with what was learnt if the recovered model no longer holds the budgets."""
    stand, fitted = choose_variant(shop, record, method)
    if method.cuts > 1:
        stand, fitted = approach(stand, fitted, record, baseline, method)
    epochs = epochs_of_cut(shop.task.recover_recipe.epochs, method.cuts, method.cuts)
    done = len(fitted.candidates)
    for number in range(1, TRIES + 1):
        if fitted.best is None:
            raise closest_miss(record.candidates, record.limits, fitted.binding, fitted.why)
        recovered = recover(stand, record, baseline, fitted.best, f"recovered {number}", epochs)
        record.recovered = recovered
        if recovered.meets(record.limits):
            return recovered
        if number < TRIES:
            learnt = fitted.feedback.learn(stand.ground, recovered).cautious()
            again = replace(stand, ground=fitted.ground, feedback=learnt)
            fitted = search(again, record, record.limits, method, first=done + 1)
            done += len(fitted.candidates)
    raise closest_miss(record.candidates, record.limits, ())


def choose_variant(shop: Workshop, record: Record, method: Method) -> tuple[Stand, Fitted]:
    """Fit every variant to the budgets; the one whose slimmed model has lost the least goes on.

    Raises:
        InfeasibleError: none can be fitted.
    """
    starts, known = record.candidates, study(shop, record.candidates[0].built)
    ends: list[tuple[Stand, Fitted]] = []
    for start in starts:
        there = shop.running(start.variant)
        ground = record.surveys[start.name] = survey(there, known, start.built)
        stand = Stand(there, start, ground, Feedback().learn(ground, start))
        fitted = search(stand, record, record.limits, method)
        if fitted.best is not None:
            ends.append((stand, fitted))
            if len(starts) > 1:
                record.fitted[str(start.variant)] = FittedVariant(fitted.best, loss(shop, stand, fitted.best))
    if not ends:
        raise closest_miss(record.candidates, record.limits, fitted.binding, fitted.why)
    if len(starts) == 1:
        return ends[0]
    least = min(record.fitted, key=lambda name: record.fitted[name].loss)
    shop.watch.say(f"goes on with {least}: of all within the budgets it has lost the least")
    return next(end for end in ends if str(end[0].start.variant) == least)


def approach(
    stand: Stand, fitted: Fitted, record: Record, baseline: Candidate, method: Method
) -> tuple[Stand, Fitted]:
    """Go to the budgets in several cuts, with recovery between; return the last cut, fitted to the budgets.

    Each cut's targets lie on the way from what was measured before it. The next cut takes from the recovered model:
    its units are scored anew, and most of its layers were timed already.
    """
    feedback, epochs = fitted.feedback, stand.shop.task.recover_recipe.epochs
    for number in range(1, method.cuts + 1):
        there = stand.shop.cut(number)
        if number > 1:
            ground = survey(there, study(there, stand.start.built), stand.start.built)
            feedback = Feedback().learn(ground, stand.start)
            stand = replace(stand, ground=ground)
        limits = targets(record.limits, stand.start.measurement, method.cuts + 1 - number)
        fitted = search(replace(stand, shop=there, feedback=feedback), record, limits, method)
        between = number < method.cuts
        if between and fitted.best is not None:  # else no plan lies on the way, and the next cut goes further
            share = epochs_of_cut(epochs, number, method.cuts)
            at = replace(stand, shop=there)
            stand = replace(stand, start=recover(at, record, baseline, fitted.best, "recovered", share))
    return replace(stand, shop=there), fitted


def search(
    stand: Stand, record: Record, limits: Sequence[Limit], method: Method, *, first: int = 1
) -> Fitted:
    """Fit what stands there to `limits`, and record all that was measured."""
    fitted = fit(
        stand.shop,
        stand.start,
        stand.ground,
        limits,
        stand.feedback,
        MilpAllocator(),
        first=first,
        rounds=method.rounds,
        strategy=method.strategy,
    )
    record.candidates += fitted.candidates
    record.surveys |= {each.name: fitted.ground for each in fitted.candidates}
    return fitted


def loss(shop: Workshop, stand: Stand, fitted: Candidate) -> float:
    """Return the loss of a fitted candidate on the calibration batches, before any training."""
    name = f"{fitted.name}: loss"
    return shop.step(
        name, float, lambda _: loss_at(stand.shop, stand.ground, stand.start.built, fitted.widths)
    )


def recover(
    stand: Stand, record: Record, baseline: Candidate, fitted: Candidate, name: str, epochs: int
) -> Candidate:
    """Fit the candidate's layers anew, train it once, convert it, check its numbers, and measure it again."""
    shop, step = stand.shop, f"{name}: reconstruct"
    begin = shop.step(step, Built, partial(shop.reconstruct, stand.start.built, fitted.built, step))
    step = f"{name}: {'train' if epochs else 'convert'}"
    built = shop.step(step, Built, lambda advance: shop.recover(baseline.built, begin, name, epochs, advance))
    record.agreement = validate(shop, name, built)
    recovered = shop.candidate(
        name,
        "recovered",
        built,
        widths=fitted.widths,
        table_ms=fitted.table_ms,
        calibrated_ms=fitted.measurement.latency_ms.p50,
        kept_importance=fitted.kept_importance,
    )
    if not recovered.meets(record.limits) and fitted.meets(record.limits):
        # The same widths met the budgets before, so this may be noise: one more measurement, and that one counts.
        record.candidates += (recovered,)
        again = shop.measure(f"{name}{MEASURE_STEP} again", built)
        recovered = replace(recovered, name=f"{recovered.name}, again", measurement=again)
    record.candidates += (recovered,)
    record.surveys[recovered.name] = record.surveys[fitted.name]
    return recovered


def validate(shop: Workshop, name: str, built: Built) -> Agreement:
    """Compare the answers of a converted file with the PyTorch model's."""
    return shop.step(f"{name}: validate", Agreement, lambda _: shop.validate(built))


def check_accuracy(recovered: Candidate, floor: float, candidates: Sequence[Candidate]) -> None:
    """Refuse a candidate whose validation accuracy is below the floor, and name the nearest that was not.

    Raises:
        InfeasibleError: it is.
    """
    if recovered.validation_accuracy >= floor:
        return
    above = [each for each in candidates if each.stage == "recovered" and each.validation_accuracy >= floor]
    near = min(above, key=lambda each: each.measurement.latency_ms.p50, default=None)
    nearest = "" if near is None else f"; {near.name!r} held it at {near.measurement.latency_ms.p50:.4g} ms"
    raise InfeasibleError(
        f"the budgets can't be met: accuracy is in the way; {recovered.name!r} reached "
        f"{recovered.validation_accuracy:.2f} % on validation, the floor is {floor:.2f} %{nearest}",
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


def _convert(shop: Workshop, built: Built, _: object) -> Built:
    return shop.convert(shop.model(built), "baseline")


def _variants(shop: Workshop) -> tuple[Variant, ...]:
    """Return the profile's further variants, without those whose runtime the device lacks."""
    own, status = shop.profile.variant, shop.device.status() if shop.profile.also else None
    found = []
    for variant in shop.profile.also:
        if status is not None and status.runtime(variant.runtime) is None:
            shop.watch.say(f"left out: {variant}; the device has no {variant.runtime}")
        elif variant != own:
            found.append(variant)
    return tuple(found)
