"""What whole-model measurements teach the next allocation.

The table times layers alone and the cost terms count bytes; the device measured the whole model. The difference is
learnt after each measurement and attributed to its causes (`search/correction.py` has the equation), so that the
prediction is exact at the point measured last. Memory and file size differ by a constant (the runtime's own buffers,
the file's graph). Energy is predicted latency times the power that was measured last: no table knows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipeline.candidate import Candidate
from pipeline.measurement import Measurement
from pipeline.noise import LARGEST_ROOM, SLOWED, SMALLEST_ROOM, room
from pipeline.profile import Limit, reached
from pipeline.search import CostRow, Problem, build_problem
from pipeline.search.correction import Correction, latency_row, scaled
from pipeline.search.strategies import Seen
from pipeline.search.terms import Point, Terms, operator_parts, terms_of
from pipeline.survey import Survey

BYTES_PER_MB = 10**6
MOST_NOISE = 0.03
NOTHING_LEARNT = Correction()
ENERGY_ROW = "predicted latency times measured power"


@dataclass(frozen=True)
class Feedback:
    """How prediction and measurement differ.

    `tail_ratio` is each percentile over the median, `power_w` the energy of an inference over its time (mJ / ms), both
    as measured last. `margin` is the share of a latency budget that is kept free for the spread that the device
    showed; it grows when a measurement missed a budget that an equal model had met. `slowed` says that the last
    measurement was made on a processor below its full pace.
    """

    correction: Correction = NOTHING_LEARNT
    tail_ratio: tuple[tuple[str, float], ...] = ()
    memory_offset_bytes: float = 0.0
    file_offset_bytes: float = 0.0
    power_w: float | None = None
    margin: float = SMALLEST_ROOM
    slowed: bool = False

    def learn(self, ground: Survey, candidate: Candidate) -> Feedback:
        """Return the feedback that makes `candidate`'s prediction exact."""
        return self.learn_from(ground, candidate.widths, candidate.measurement)

    def learn_from(self, ground: Survey, widths: Mapping[str, int], measured: Measurement) -> Feedback:
        """Return the feedback that makes the prediction at `widths` exact.

        A processor below its full pace may pass: what it alone explains is learnt only where it was so twice in a row.
        """
        p50, peak, energy = measured.latency_ms.p50, measured.model_peak_bytes, measured.energy_mj
        tails = []
        for percentile in ("p50", "p90", "p95", "p99"):
            value = reached("latency", measured, percentile)
            if value is not None:
                tails.append((percentile, value / p50))
        operators = measured.operators
        parts = (
            None if operators is None else operator_parts(ground.graph, ground.table, widths, operators, p50)
        )
        noise = min(measured.steadiness, MOST_NOISE)
        terms = terms_of(ground.graph, ground.table, widths)
        point = Point(dict(widths), terms, self._believed_ms(terms, measured), noise, parts)
        return Feedback(
            correction=self.correction.with_point(point),
            tail_ratio=tuple(tails),
            memory_offset_bytes=0.0 if peak is None else peak - ground.peak_bytes(widths),
            file_offset_bytes=measured.file_bytes - ground.file_bytes(widths),
            power_w=self.power_w if energy is None else energy / p50,
            margin=max(self.margin, room("latency", measured)),
            slowed=SLOWED in measured.flags,
        )

    def _believed_ms(self, terms: Terms, measured: Measurement) -> float:
        """Return what the latency is at the pace of the measurements before."""
        p50 = measured.latency_ms.p50
        passing = SLOWED in measured.flags and not self.slowed and self.correction.points
        fastest = p50 / (measured.during.slowdown or 1.0) if passing else p50
        return min(max(self.correction.predict(terms), fastest), p50)

    def cautious(self) -> Feedback:
        """Return the same feedback with twice the margin, after a miss that was noise."""
        return replace(self, margin=min(2 * self.margin, 2 * LARGEST_ROOM))

    def predict_ms(self, ground: Survey, widths: Mapping[str, int]) -> float:
        """Return the p50 latency that the corrected table expects."""
        return self.correction.predict(terms_of(ground.graph, ground.table, widths))

    def predicted_limits(self, limits: Sequence[Limit]) -> dict[str, float]:
        """Turn budgets (ms, MB, mJ) into limits on what is predicted: p50 in ms, bytes, mJ.

        A budget for energy that was never measured limits nothing here.
        """
        found: dict[str, float] = {}
        for limit in limits:
            if limit.resource == "latency":
                tail = dict(self.tail_ratio).get(limit.percentile, 1.0)
                found["latency"] = limit.value * (1 - self.margin) / tail
            elif limit.resource == "energy":
                if self.power_w:
                    found["energy"] = limit.value * (1 - self.margin)
            elif limit.resource == "model_peak":
                found["model_peak"] = limit.value * BYTES_PER_MB
            elif limit.resource == "file":
                found["file"] = limit.value * BYTES_PER_MB
        return found

    def problem(self, ground: Survey, limits: Sequence[Limit]) -> Problem:
        """Return the problem of choosing widths: costs as the device would measure them, and limits on them.

        With a measured power there is also the cost "energy" in mJ, predicted latency times that power; so a limit on
        it is one on latency, and the tighter of the two counts.
        """
        graph, table, kept, widths = ground.graph, ground.table, ground.kept, ground.widths
        bare = build_problem(graph, table, kept, {}, widths)
        latency = latency_row(graph, table, kept, widths, self.correction)
        offsets = {"file": self.file_offset_bytes, "model_peak": self.memory_offset_bytes}
        rows: list[CostRow] = [latency]
        shares = {"file": ground.file_share, "model_peak": 1.0}
        for row in bare.rows:
            if row.resource in offsets:
                stored = scaled(row, shares[row.resource], row.resource, row.name)
                rows.append(replace(stored, constant=stored.constant + offsets[row.resource]))
        if self.power_w:
            rows.append(scaled(latency, self.power_w, "energy", ENERGY_ROW))
        return Problem(bare.widths, bare.kept, tuple(rows), self.predicted_limits(limits))


@dataclass(frozen=True)
class Corrected:
    """What a search knows of a device (`search.strategies.Outlook`): the survey, the budgets, what was learnt."""

    ground: Survey
    limits: tuple[Limit, ...]
    feedback: Feedback

    @property
    def margin(self) -> float:
        """The share of a latency budget that is kept free."""
        return self.feedback.margin

    def problem(self) -> Problem:
        """See `Feedback.problem`."""
        return self.feedback.problem(self.ground, self.limits)

    def learn(self, widths: Mapping[str, int], seen: Seen) -> Corrected:
        """Return the outlook that knows one more measurement."""
        return replace(self, feedback=self.feedback.learn_from(self.ground, widths, seen.measurement))
