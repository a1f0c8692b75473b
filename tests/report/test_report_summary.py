"""The report's JSON: the way there and back, and records that are old, partial or broken."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import report_samples as samples

from pipeline.errors import RunError
from pipeline.report import summary_from_json, to_json


@pytest.mark.parametrize("name", [name for name in samples.SAMPLES if name != "hostile"])
def test_a_summary_survives_the_way_through_json(name: str) -> None:
    summary = samples.SAMPLES[name]()
    assert summary_from_json(to_json(summary)) == summary
    assert summary_from_json(json.loads(to_json(summary))) == summary


def test_names_that_are_no_text_do_not_stop_the_json() -> None:
    assert summary_from_json(to_json(samples.hostile())).message.endswith("?")


def test_scripts_find_what_they_are_promised() -> None:
    found = json.loads(to_json(samples.met()))
    for side in ("baseline", "reached"):
        assert found[side]["latency_ms"]["p50"] > 0
        assert {"model_peak_mb", "file_mb", "accuracy"} <= found[side].keys()
    assert {"run", "status", "device_measurements", "bundle"} <= found.keys()


def test_a_null_or_unknown_key_does_not_stop_an_old_record() -> None:
    record = {"run": "r", "created": "c", "status": "failed", "layers": None, "accuracy": None, "later": 1}
    assert summary_from_json(record).layers == ()


def test_a_number_that_is_not_finite_becomes_null() -> None:
    full = samples.met()
    assert full.agreement is not None
    endless = replace(full, agreement=replace(full.agreement, sqnr_db=math.inf))
    assert json.loads(to_json(endless))["agreement"]["sqnr_db"] is None


@pytest.mark.parametrize("record", ["{", "[]", '{"run": "r", "created": "c", "status": "lost"}'])
def test_a_record_that_is_none_is_refused(record: str) -> None:
    with pytest.raises(RunError, match="summary is not usable"):
        summary_from_json(record)
