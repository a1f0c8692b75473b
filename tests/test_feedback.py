"""What measurements teach: the corrected prediction goes through what was measured, and budgets become limits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from pipeline.candidate import Built, Candidate
from pipeline.feedback import Feedback
from pipeline.measurement import ColdStart, Conditions, Latency, Measurement
from pipeline.profile import Limit

QUIET = Conditions(None, None, None, None, None)
MEASURED = Measurement(
    file_sha256="0" * 64, file_bytes=1_000_000, runtime="onnxruntime", runtime_version="1", threads=1, cores=(0,),
    runs=200, duration_s=2.0, attempts=1, latency_ms=Latency(1.0, 1.2, None, None, 1.0, 0.9, 2.0), steadiness=0.01,
    cold_start=ColdStart(1, 1, 1), process_peak_bytes=30_000_000, model_peak_bytes=12_000_000, energy_mj=None,
    energy_method="unavailable", before=QUIET, after=QUIET,
)  # fmt: skip


@dataclass(frozen=True)
class Ground:
    """A survey whose table says a tenth of a millisecond a channel of its one group."""

    def table_ms(self, widths: dict[str, int]) -> float:
        return 0.1 * widths["g"]

    def weight_bytes(self, widths: dict[str, int]) -> float:
        return 50_000.0 * widths["g"]

    def peak_bytes(self, widths: dict[str, int]) -> float:
        return 100_000.0 * widths["g"]


def measured(width: int, p50: float, **changes: object) -> Candidate:
    latency = replace(MEASURED.latency_ms, p50=p50, p90=1.2 * p50)
    measurement = replace(MEASURED, latency_ms=latency, **changes)
    return Candidate("c", "fit", Built("w", None, "m", 1), {"g": width}, None, None, None, measurement, 90.0)


def test_after_one_measurement_the_prediction_is_scaled() -> None:
    feedback = Feedback().learn(Ground(), measured(10, 1.5))
    assert feedback.predict_ms(1.0) == pytest.approx(1.5)
    assert feedback.predict_ms(0.5) == pytest.approx(0.75)


def test_after_two_far_measurements_the_prediction_goes_through_both() -> None:
    feedback = Feedback().learn(Ground(), measured(10, 1.5)).learn(Ground(), measured(5, 1.0))
    assert feedback.predict_ms(1.0) == pytest.approx(1.5)
    assert feedback.predict_ms(0.5) == pytest.approx(1.0)
    assert feedback.predict_ms(0.25) == pytest.approx(0.75)


def test_two_near_measurements_make_no_line() -> None:
    feedback = Feedback().learn(Ground(), measured(100, 10.0)).learn(Ground(), measured(99, 10.5))
    assert feedback.predict_ms(9.9) == pytest.approx(10.5)
    assert feedback.predict_ms(0.0) == 0.0


def test_limits_keep_a_margin_and_undo_the_correction() -> None:
    feedback = Feedback().learn(Ground(), measured(10, 1.5, steadiness=0.04))
    limits = feedback.table_limits([Limit("latency", 0.75, "p50", "50%")])
    assert limits["latency"] == pytest.approx(0.5 * 0.98)


def test_a_percentile_is_reached_through_the_measured_ratio() -> None:
    feedback = Feedback().learn(Ground(), measured(10, 1.0, steadiness=0.0))
    limits = feedback.table_limits([Limit("latency", 1.2, "p90", "1.2 ms")])
    assert limits["latency"] == pytest.approx(1.0 * 0.99)


def test_memory_and_file_limits_leave_out_what_no_width_changes() -> None:
    feedback = Feedback().learn(Ground(), measured(10, 1.0))
    limits = feedback.table_limits([Limit("model_peak", 11.5, "p50", ""), Limit("file", 0.75, "p50", "")])
    assert limits == {"model_peak": pytest.approx(500_000), "file": pytest.approx(250_000)}


def test_caution_doubles_the_margin_up_to_a_bound() -> None:
    feedback = Feedback(margin=0.02)
    assert feedback.cautious().margin == 0.04
    assert feedback.cautious().cautious().cautious().margin == 0.06
