"""What whole-model measurements teach the next allocation.

The table times layers alone and the cost terms count bytes; the device measured the whole model. The difference is
learnt after each measurement, so that the prediction is exact at the point measured last, and budgets are turned
into limits in the units of the prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.candidate import Candidate
from pipeline.profile import Limit, reached
from pipeline.survey import Survey

BYTES_PER_MB = 10**6
SMALLEST_MARGIN = 0.01
LARGEST_MARGIN = 0.03


@dataclass(frozen=True)
class Feedback:
    """How prediction and measurement differ.

    Latency differs by a factor (`latency_ratio`, measured ÷ table), memory and file size by a constant (the
    runtime's own buffers, the file's graph). `margin` is the share of a latency budget that is kept free for the
    spread that the device showed; it grows when a measurement missed a budget that an equal model had met.
    """

    latency_ratio: float = 1.0
    tail_ratio: tuple[tuple[str, float], ...] = ()
    memory_offset_bytes: float = 0.0
    file_offset_bytes: float = 0.0
    margin: float = SMALLEST_MARGIN

    def learn(self, ground: Survey, candidate: Candidate) -> Feedback:
        """Return the feedback that makes `candidate`'s prediction exact."""
        measured = candidate.measurement
        peak = measured.model_peak_bytes
        tails = []
        for percentile in ("p50", "p90", "p95", "p99"):
            value = reached("latency", measured, percentile)
            if value is not None:
                tails.append((percentile, value / measured.latency_ms.p50))
        predicted_peak = ground.peak_bytes(candidate.widths)
        return Feedback(
            latency_ratio=measured.latency_ms.p50 / ground.table_ms(candidate.widths),
            tail_ratio=tuple(tails),
            memory_offset_bytes=0.0 if peak is None else peak - predicted_peak,
            file_offset_bytes=measured.file_bytes - ground.weight_bytes(candidate.widths),
            margin=max(self.margin, min(measured.steadiness / 2, LARGEST_MARGIN)),
        )

    def cautious(self) -> Feedback:
        """Return the same feedback with twice the margin, after a miss that was noise."""
        return Feedback(
            self.latency_ratio,
            self.tail_ratio,
            self.memory_offset_bytes,
            self.file_offset_bytes,
            margin=min(2 * self.margin, 2 * LARGEST_MARGIN),
        )

    def predict_ms(self, table_ms: float) -> float:
        """Return the p50 latency that the corrected table expects."""
        return table_ms * self.latency_ratio

    def table_limits(self, limits: Sequence[Limit]) -> dict[str, float]:
        """Turn budgets (ms, MB) into limits in the units of the prediction (table ms, bytes)."""
        translated = {}
        for limit in limits:
            if limit.resource == "latency":
                tail = dict(self.tail_ratio).get(limit.percentile, 1.0)
                translated["latency"] = limit.value * (1 - self.margin) / tail / self.latency_ratio
            elif limit.resource == "model_peak":
                translated["model_peak"] = limit.value * BYTES_PER_MB - self.memory_offset_bytes
            elif limit.resource == "file":
                translated["file"] = limit.value * BYTES_PER_MB - self.file_offset_bytes
        return translated
