"""From what a deploy recorded to the summary that the terminal, `--json` and the HTML report show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, cast

from pipeline import candidate as measured
from pipeline.deploy import Record
from pipeline.device.client import BoardStatus
from pipeline.explain import explain
from pipeline.profile import UNITS, Budget, DeviceProfile, Limit, reached
from pipeline.report.summary import (
    AccuracyLine,
    AgreementLine,
    BudgetLine,
    BundleLine,
    Candidate,
    FixedLine,
    LayerLine,
    RunSummary,
    RuntimeLine,
    Stage,
    StepLine,
    VariantLine,
)
from pipeline.store import Run
from pipeline.survey import TABLE_STEP, Survey
from pipeline.task import Task
from pipeline.workshop import MEASURE_STEP

BYTES_PER_MB = 10**6


@dataclass(frozen=True)
class Ending:
    """How a run ended, and one sentence about it."""

    status: Literal["met", "infeasible", "failed", "interrupted"]
    message: str


def summarize(
    run: Run,
    task: Task,
    profile: DeviceProfile,
    device: str,
    board: BoardStatus,
    record: Record,
    ending: Ending,
) -> RunSummary:
    """Return all that is known of a run, however far it came."""
    steps = run.store.steps(run.id)
    winner = record.recovered if ending.status == "met" else None
    near = _nearest(record)
    outcome = winner or near
    ground = _ground(record, outcome)
    return RunSummary(
        run=run.id,
        created=run.created,
        status="running" if ending.status == "interrupted" else ending.status,
        message=ending.message,
        task=task.name,
        device=device,
        profile=profile.name,
        runtime=_runtime(profile, outcome or record.baseline),
        board=dict(asdict(board)["board"]),
        budgets=_budgets(profile, record, outcome),
        accuracy=_accuracy(task, profile, record),
        baseline=_candidate(record.baseline, record) if record.baseline else None,
        reached=_candidate(winner, record) if winner else None,
        nearest=_candidate(near, record) if near and not winner else None,
        candidates=tuple(_candidate(each, record) for each in record.candidates),
        variants=_variants(record, winner),
        layers=_layers(_whole(record, outcome), ground, outcome),
        groups=explain(ground, outcome.widths) if ground is not None and outcome is not None else (),
        fixed=_fixed(ground),
        device_measurements=sum(MEASURE_STEP in step.name for step in steps),
        table_entries=len(ground.table.entries) if ground else 0,
        bundle=_bundle(record, winner),
        agreement=_agreement(record),
        steps=tuple(StepLine(step.name, step.seconds) for step in steps),
        notes=_notes(task, record),
    )


def _nearest(record: Record) -> measured.Candidate | None:
    """Return what came nearest to all budgets; a recovered one that met them all lacked accuracy only."""
    if record.recovered is not None and record.recovered.meets(record.limits):
        return record.recovered
    return measured.nearest(record.candidates[1:], record.limits) if len(record.candidates) > 1 else None


def _ground(record: Record, outcome: measured.Candidate | None) -> Survey | None:
    """Return what the outcome was chosen on, or what is known of the whole model before there is one."""
    if outcome is not None and outcome.name in record.surveys:
        return record.surveys[outcome.name]
    return next(iter(record.surveys.values()), None)


def _whole(record: Record, outcome: measured.Candidate | None) -> Survey | None:
    """Return what is known of the whole model in the outcome's variant."""
    for each in record.candidates:
        if each.stage == "baseline" and (outcome is None or each.variant == outcome.variant):
            return record.surveys.get(each.name)
    return None


def _runtime(profile: DeviceProfile, outcome: measured.Candidate | None) -> RuntimeLine:
    if outcome is None:
        return RuntimeLine(profile.runtime, None, profile.threads, profile.storage)
    variant = outcome.variant
    return RuntimeLine(variant.runtime, outcome.measurement.runtime_version, variant.threads, variant.storage)


def _variants(record: Record, winner: measured.Candidate | None) -> tuple[VariantLine, ...]:
    """Return a line for each variant where there are several."""
    starts = [each for each in record.candidates if each.stage == "baseline"]
    lines = []
    for start in starts if len(starts) > 1 else ():
        fitted = record.fitted.get(str(start.variant))
        lines.append(
            VariantLine(
                name=str(start.variant),
                baseline_ms=start.measurement.latency_ms.p50,
                fitted_ms=None if fitted is None else fitted.candidate.measurement.latency_ms.p50,
                loss=None if fitted is None else fitted.loss,
                chosen=winner is not None and winner.variant == start.variant,
            )
        )
    return tuple(lines)


def _budgets(
    profile: DeviceProfile, record: Record, outcome: measured.Candidate | None
) -> tuple[BudgetLine, ...]:
    limits: Sequence[Limit | None] = record.limits or (None,) * len(profile.budgets)
    return tuple(_budget(*pair, record, outcome) for pair in zip(profile.budgets, limits, strict=True))


def _budget(
    budget: Budget, limit: Limit | None, record: Record, outcome: measured.Candidate | None
) -> BudgetLine:
    def figure(candidate: measured.Candidate | None) -> float | None:
        return reached(budget.resource, candidate.measurement, budget.percentile) if candidate else None

    value = figure(outcome)
    return BudgetLine(
        resource=budget.resource,
        unit=UNITS[budget.resource],
        percentile=budget.percentile,
        stated=budget.stated,
        limit=limit.value if limit else None,
        baseline=figure(record.baseline),
        reached=value,
        met=value <= limit.value if value is not None and limit is not None else None,
    )


def _accuracy(task: Task, profile: DeviceProfile, record: Record) -> AccuracyLine:
    before, after = record.baseline, record.recovered
    tests = record.test_accuracy or (None, None)
    floor = record.accuracy_floor
    return AccuracyLine(
        stated=profile.accuracy.stated,
        floor=floor,
        baseline_validation=before.validation_accuracy if before else None,
        reached_validation=after.validation_accuracy if after else None,
        baseline_test=tests[0],
        reached_test=tests[1],
        met=after.validation_accuracy >= floor if after and floor is not None else None,
        validation_seen_by_baseline=task.baseline_saw_validation,
    )


def _candidate(candidate: measured.Candidate, record: Record) -> Candidate:
    measurement = candidate.measurement
    peak = measurement.model_peak_bytes
    tests = dict(zip(("baseline", "reached"), record.test_accuracy or (), strict=False))
    is_winner = record.recovered is not None and candidate.name == record.recovered.name
    return Candidate(
        name=candidate.name,
        stage=cast("Stage", candidate.stage),
        variant=str(candidate.variant),
        latency_ms=measurement.latency_ms,
        predicted_ms=candidate.table_ms,
        calibrated_ms=candidate.calibrated_ms,
        model_peak_mb=None if peak is None else peak / BYTES_PER_MB,
        file_mb=measurement.file_bytes / BYTES_PER_MB,
        energy_mj=measurement.energy_mj,
        accuracy=tests.get("reached" if is_winner else candidate.name),
        validation_accuracy=candidate.validation_accuracy,
        parameters=candidate.built.parameters,
        widths=candidate.widths,
        measurement=measurement,
    )


def _layers(
    whole: Survey | None, ground: Survey | None, outcome: measured.Candidate | None
) -> tuple[LayerLine, ...]:
    """Return each layer of the whole model, as it was and as the outcome has it."""
    if whole is None or ground is None:
        return ()
    before = whole.table.layer_ms(whole.graph, whole.full())
    widths = {} if outcome is None else {**ground.full(), **outcome.widths}
    after = ground.table.layer_ms(ground.graph, widths) if outcome is not None else {}
    left = {layer.name: layer.widths(widths) for layer in ground.graph.layers} if outcome is not None else {}
    gone = (None, None) if outcome is None else (0, 0)  # with a block of an earlier cut
    lines = []
    for layer in whole.graph.layers:
        in_width, out_width = left.get(layer.name, gone)
        lines.append(
            LayerLine(
                name=layer.name,
                kind=layer.kind,
                in_before=layer.in_width,
                out_before=layer.out_width,
                in_after=in_width,
                out_after=out_width,
                ms_before=before.get(layer.name),
                ms_after=after.get(layer.name, None if outcome is None else 0.0),
            )
        )
    return tuple(lines)


def _fixed(survey: Survey | None) -> tuple[FixedLine, ...]:
    return tuple(FixedLine(each.name, each.reason) for each in survey.graph.frozen) if survey else ()


def _bundle(record: Record, winner: measured.Candidate | None) -> BundleLine | None:
    if record.bundle is None or winner is None:
        return None
    return BundleLine(record.bundle.digest, winner.built.model, record.generation)


def _agreement(record: Record) -> AgreementLine | None:
    found = record.agreement
    if found is None:
        return None
    return AgreementLine(found.max_abs_error, found.max_rel_error, found.sqnr_db, found.samples)


def _notes(task: Task, record: Record) -> tuple[str, ...]:
    notes = []
    if task.baseline_saw_validation:
        notes.append(
            "The given baseline was trained on images of the validation split, so its own accuracy there is too high; "
            + (
                f"its published accuracy of {task.published_accuracy:g} % stands in for it."
                if task.published_accuracy is not None
                else "the accuracy floor that is relative to it is stricter than it looks."
            )
            + " For the same reason a training ends with its last epoch's weights, not with those that validated best."
        )
    replayed = {c.measurement.replayed_from for c in record.candidates} - {None}
    notes += [
        f"The measurements were taken from run {source}, not made anew."
        for source in sorted(map(str, replayed))
    ]
    notes += [
        f"The measurement of {each.name!r} is less certain than others: it was {', '.join(each.measurement.flags)}, "
        f"also after {each.measurement.attempts} attempts."
        for each in record.candidates
        if each.measurement.flags
    ]
    if record.surveys:
        notes.append(
            f"The times of single layers come from the steps {TABLE_STEP!r}: the device timed each of them alone."
        )
    return tuple(notes)
