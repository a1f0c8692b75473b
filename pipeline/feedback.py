"""What whole-model measurements teach the next allocation.

The table times layers alone and the cost terms count bytes; the device measured the whole model. The difference is
learnt after each measurement, so that the prediction is exact at the point measured last, and budgets are turned
into limits in the units of the prediction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.candidate import Candidate
from pipeline.profile import Limit, reached
from pipeline.survey import Survey

BYTES_PER_MB = 10**6
SMALLEST_MARGIN = 0.01
LARGEST_MARGIN = 0.03
FAR_APART = 0.1  # of the anchor's table time: a line through nearer points would be made of noise


@dataclass(frozen=True)
class Feedback:
    """How prediction and measurement differ.

    Latency is taken as a straight line in the table's sum: a factor after one measurement, the line through the first
    (`anchor`: table ms, measured ms) and the latest one after more, since what the table does not hold (joins, copies)
    partly shrinks with the widths and partly does not. Memory and file size differ by a constant (the runtime's own
    buffers, the file's graph). `margin` is the share of a latency budget that is kept free for the
    spread that the device showed; it grows when a measurement missed a budget that an equal model had met.
    """

    anchor: tuple[float, float] | None = None
    slope: float = 1.0
    offset_ms: float = 0.0
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
        point = (ground.table_ms(candidate.widths), measured.latency_ms.p50)
        anchor = self.anchor or point
        slope, offset_ms = _line(anchor, point)
        return Feedback(
            anchor=anchor,
            slope=slope,
            offset_ms=offset_ms,
            tail_ratio=tuple(tails),
            memory_offset_bytes=0.0 if peak is None else peak - predicted_peak,
            file_offset_bytes=measured.file_bytes - ground.weight_bytes(candidate.widths),
            margin=max(self.margin, min(measured.steadiness / 2, LARGEST_MARGIN)),
        )

    def cautious(self) -> Feedback:
        """Return the same feedback with twice the margin, after a miss that was noise."""
        return replace(self, margin=min(2 * self.margin, 2 * LARGEST_MARGIN))

    def predict_ms(self, table_ms: float) -> float:
        """Return the p50 latency that the corrected table expects."""
        return self.offset_ms + self.slope * table_ms

    def table_limits(self, limits: Sequence[Limit]) -> dict[str, float]:
        """Turn budgets (ms, MB) into limits in the units of the prediction (table ms, bytes)."""
        translated = {}
        for limit in limits:
            if limit.resource == "latency":
                tail = dict(self.tail_ratio).get(limit.percentile, 1.0)
                p50 = limit.value * (1 - self.margin) / tail
                translated["latency"] = (p50 - self.offset_ms) / self.slope
            elif limit.resource == "model_peak":
                translated["model_peak"] = limit.value * BYTES_PER_MB - self.memory_offset_bytes
            elif limit.resource == "file":
                translated["file"] = limit.value * BYTES_PER_MB - self.file_offset_bytes
        return translated


def _line(anchor: tuple[float, float], point: tuple[float, float]) -> tuple[float, float]:
    """Return slope and offset (ms) of the line through both points; through the origin where they say too little."""
    run, rise = point[0] - anchor[0], point[1] - anchor[1]
    if abs(run) > FAR_APART * anchor[0] and rise / run > 0:
        slope = rise / run
        return slope, point[1] - slope * point[0]
    return point[1] / point[0], 0.0
