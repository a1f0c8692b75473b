"""A candidate: one model that was really built, pushed and measured, and all that is known of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.measurement import Measurement
from pipeline.profile import Limit, reached
from pipeline.variant import Variant


@dataclass(frozen=True)
class Built:
    """The files of a candidate (names within the run's folder) and its size in parameters.

    `plans` took something from the model, one after the other; there are none for the baseline.
    """

    weights: str
    plans: tuple[str, ...]
    model: str
    parameters: int


@dataclass(frozen=True)
class Candidate:
    """A measured model.

    `stage` is baseline, fit (before recovery) or recovered, `variant` how it is run. `table_ms` is the latency that the
    device's table alone predicted, `calibrated_ms` the prediction after feedback from earlier measurements. Accuracy is
    in percent of the validation split.
    """

    name: str
    stage: str
    variant: Variant
    built: Built
    widths: dict[str, int]
    table_ms: float | None
    calibrated_ms: float | None
    kept_importance: float | None
    measurement: Measurement
    validation_accuracy: float

    def used(self, limits: Sequence[Limit]) -> dict[str, float]:
        """Return the measured share of each budget; infinite where the device could not measure it."""
        shares: dict[str, float] = {}
        for limit in limits:
            value = reached(limit.resource, self.measurement, limit.percentile)
            shares[limit.resource] = float("inf") if value is None else value / limit.value
        return shares

    def overruns(self, limits: Sequence[Limit]) -> dict[str, float]:
        """Return by how much each missed budget is overrun, as a share of it; empty when all are met."""
        return {resource: share - 1.0 for resource, share in self.used(limits).items() if share > 1.0}

    def meets(self, limits: Sequence[Limit]) -> bool:
        """Tell whether every budget holds as measured."""
        return not self.overruns(limits)


def nearest(candidates: Sequence[Candidate], limits: Sequence[Limit]) -> Candidate:
    """Return the candidate whose worst overrun is the smallest."""
    return min(candidates, key=lambda candidate: max(candidate.overruns(limits).values(), default=0.0))
