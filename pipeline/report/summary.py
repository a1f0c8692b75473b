"""The data of a report: one `RunSummary` a run, the same that `--json` writes.

Units: times in ms (steps in s), sizes in MB (10**6 bytes), energy in mJ, accuracy in percent. `None` means
"not measured" or "not reached yet"; a run that failed early has little but its name, status and message.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from pipeline.errors import RunError
from pipeline.measurement import Latency, Measurement

Status = Literal["met", "infeasible", "failed", "running"]
Stage = Literal["baseline", "fit", "recovered"]
ResourceName = Literal["latency", "model_peak", "file", "energy"]


@dataclass(frozen=True)
class RuntimeLine:
    """How the model runs; `version` is the device's, `None` before it was asked; `storage` that of the weights."""

    name: str
    version: str | None = None
    threads: int | None = None
    storage: str = "fp32"


@dataclass(frozen=True)
class VariantLine:
    """A way to run the model that was measured: the whole model's p50, and that of the best one fitted to the budgets.

    `loss` is the fitted one's on the calibration batches before any training; the least was `chosen`.
    """

    name: str
    baseline_ms: float
    fitted_ms: float | None = None
    loss: float | None = None
    chosen: bool = False


@dataclass(frozen=True)
class BudgetLine:
    """One budget: `limit`, `baseline` and `reached` in `unit`; `stated` is what the user wrote."""

    resource: ResourceName
    unit: str
    percentile: str
    stated: str
    limit: float | None = None
    baseline: float | None = None
    reached: float | None = None
    met: bool | None = None


@dataclass(frozen=True)
class AccuracyLine:
    """Accuracy before and after, in percent. `floor` is about the validation split, as is `met`.

    `validation_seen_by_baseline` says that the given baseline was trained on the validation split too.
    """

    stated: str
    floor: float | None = None
    baseline_validation: float | None = None
    reached_validation: float | None = None
    baseline_test: float | None = None
    reached_test: float | None = None
    met: bool | None = None
    validation_seen_by_baseline: bool = False


@dataclass(frozen=True)
class Candidate:
    """One model that was built, pushed and measured.

    `predicted_ms` is the latency table's prediction alone, `calibrated_ms` the one after feedback from
    earlier measurements. `accuracy` is on the test set (only the baseline and the winner are scored there).
    """

    name: str
    stage: Stage
    latency_ms: Latency
    predicted_ms: float | None = None
    calibrated_ms: float | None = None
    model_peak_mb: float | None = None
    file_mb: float | None = None
    energy_mj: float | None = None
    accuracy: float | None = None
    validation_accuracy: float | None = None
    parameters: int | None = None
    widths: dict[str, int] = field(default_factory=dict)
    measurement: Measurement | None = None
    variant: str = ""


@dataclass(frozen=True)
class LayerLine:
    """One layer before and after: widths in channels or features, times of the layer alone in ms."""

    name: str
    kind: str
    in_before: int
    out_before: int
    in_after: int | None = None
    out_after: int | None = None
    ms_before: float | None = None
    ms_after: float | None = None


@dataclass(frozen=True)
class OtherWidth:
    """A width that was not chosen: how much more importance it keeps (a share of all), how many ms more it takes."""

    width: int
    kept_more: float
    ms_more: float


@dataclass(frozen=True)
class GroupLine:
    """Why a group has its width.

    `lost` is the share of all importance that can be lost which it gave, `won_ms` the time that this saves while all
    other groups are as chosen. `choices` are the widths that could be chosen: right edges of the device's staircase,
    or evenly spaced (`even`) where it shows none; `points` (width, ms) are what the device timed, neighbours whole.
    """

    name: str
    whole: int
    kept: int
    lost: float
    won_ms: float
    choices: tuple[int, ...] = ()
    narrower: OtherWidth | None = None
    wider: OtherWidth | None = None
    points: tuple[tuple[int, float], ...] = ()
    even: bool = True


@dataclass(frozen=True)
class FixedLine:
    """A part of the model that was left whole, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class BundleLine:
    """What travelled to the device; `generation` is `None` until it is active there."""

    digest: str
    model_file: str | None = None
    generation: int | None = None


@dataclass(frozen=True)
class AgreementLine:
    """How well the converted model's numbers agree with the PyTorch model's."""

    max_abs_error: float | None = None
    max_rel_error: float | None = None
    sqnr_db: float | None = None
    samples: int | None = None


@dataclass(frozen=True)
class StepLine:
    """A finished step and the seconds it took."""

    name: str
    seconds: float


@dataclass(frozen=True)
class RunSummary:
    """All that a report says about a run. `candidates` are in the order in which they were measured."""

    run: str
    created: str
    status: Status
    message: str = ""
    task: str = ""
    device: str = ""
    profile: str = ""
    runtime: RuntimeLine | None = None
    board: dict[str, Any] = field(default_factory=dict)
    budgets: tuple[BudgetLine, ...] = ()
    accuracy: AccuracyLine | None = None
    baseline: Candidate | None = None
    reached: Candidate | None = None
    nearest: Candidate | None = None
    candidates: tuple[Candidate, ...] = ()
    variants: tuple[VariantLine, ...] = ()
    layers: tuple[LayerLine, ...] = ()
    groups: tuple[GroupLine, ...] = ()
    fixed: tuple[FixedLine, ...] = ()
    device_measurements: int = 0
    table_entries: int = 0
    bundle: BundleLine | None = None
    agreement: AgreementLine | None = None
    steps: tuple[StepLine, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def outcome(self) -> Candidate | None:
        """The candidate that the report compares with the baseline: the one reached, else the nearest."""
        return self.reached or self.nearest


_ADAPTER = TypeAdapter(RunSummary)
AGAIN = "run the deploy again"


def to_json(summary: RunSummary) -> str:
    """Return the summary as indented JSON; what JSON cannot hold (NaN, half letters) becomes null or "?"."""
    return json.dumps(_plain(asdict(summary)), indent=2, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.encode(errors="replace").decode() if isinstance(value, str) else value


def summary_from_json(data: Mapping[str, Any] | str) -> RunSummary:
    """Read a summary from JSON text or from the mapping it decodes to.

    A null at the top level counts as absent, and unknown keys are passed over, so that the record of a run
    that ended early, or of another version, can still be shown.

    Raises:
        RunError: the record is not a run's summary; names the first place that is wrong.
    """
    try:
        known = json.loads(data) if isinstance(data, str) else data
    except ValueError as error:
        raise RunError(f"a run's summary is not usable: it is no JSON: {error}", hint=AGAIN) from error
    if not isinstance(known, Mapping):
        raise RunError("a run's summary is not usable: it is no JSON object", hint=AGAIN)
    try:
        return _ADAPTER.validate_python({key: value for key, value in known.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the record"
        raise RunError(f"a run's summary is not usable: {where}: {first['msg']}", hint=AGAIN) from error
