"""The closing table, on the terminal and as rows, and the words for its numbers."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
import report_samples as samples
from rich.console import Console

from pipeline.report import BudgetLine, closing_table
from pipeline.report.closing import closing_rows, outcome_heading
from pipeline.report.verdict import verdict
from pipeline.report.words import listed, number, printable, quantities, seconds, shortened


def terminal(summary: samples.RunSummary, encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    Console(file=stream, width=80).print(closing_table(summary))
    stream.flush()
    return raw.getvalue().decode(encoding)


@pytest.mark.parametrize("name", samples.SAMPLES)
def test_the_table_fits_eighty_columns_without_folding(name: str) -> None:
    summary = samples.SAMPLES[name]()
    lines = terminal(summary).splitlines()
    assert len(lines) == 1 + len(closing_rows(summary))
    assert all(len(line) <= 80 for line in lines)


def test_the_table_shows_baseline_budget_reached_and_verdict() -> None:
    lines = [line.split() for line in terminal(samples.met()).splitlines()]
    assert lines[0] == ["baseline", "budget", "reached", "verdict"]
    assert lines[1] == ["Latency", "(p50)", "14.2", "ms", "7.11", "ms", "(50%)", "6.74", "ms", "met"]
    assert lines[4] == ["Accuracy", "(validation)", "98.92", "%", ">=", "97.92", "%", "98.31", "%", "met"]
    assert lines[5] == ["Accuracy", "(test)", "91.73", "%", "-", "91.41", "%", "-"]


def test_a_terminal_that_knows_only_ascii_gets_the_same_table() -> None:
    assert "Latency (p50)" in terminal(samples.infeasible(), "ascii")


def test_the_column_of_an_infeasible_run_is_the_nearest() -> None:
    summary = samples.infeasible()
    assert outcome_heading(summary) == "Nearest"
    assert closing_rows(summary)[0].state == "missed"


def test_accuracy_before_recovery_is_not_judged() -> None:
    row = next(row for row in closing_rows(samples.infeasible()) if row.name.startswith("Accuracy"))
    assert (row.reached, row.state) == ("10.00\u00a0%", "none")


def test_markup_in_a_budget_stays_text() -> None:
    budget = BudgetLine("latency", "ms", "p50", "[red]9%", 7.1, 14.2, 6.7, True)
    assert "([red]9%)" in terminal(replace(samples.met(), budgets=(budget,)))


def test_a_limit_just_missed_looks_different_from_what_was_reached() -> None:
    assert quantities((7.104, 7.102, None), "ms") == ["7.104\u00a0ms", "7.102\u00a0ms", "not measured"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [(10.0, 10.2, "about as fast as before"), (10.0, 20.0, "2.0× slower"), (10.0, 4.0, "2.5× faster")],
)
def test_the_headline_never_calls_a_slower_model_faster(before: float, after: float, said: str) -> None:
    summary = replace(
        samples.met(),
        baseline=samples.candidate("baseline", "baseline", before, 98.0),
        reached=samples.candidate("recovered 1", "recovered", after, 98.0),
    )
    assert said in verdict(summary).headline.lower()


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (91.73, 91.70, "as accurate as before"),
        (91.73, 92.23, "0.5 points more accurate"),
        (91.7, 90.7, "1.0 point less accurate"),
    ],
)
def test_the_headline_tells_accuracy_in_points(before: float, after: float, said: str) -> None:
    full = samples.met()
    assert full.accuracy is not None
    changed = replace(full.accuracy, baseline_test=before, reached_test=after)
    assert said in verdict(replace(full, accuracy=changed)).headline


def test_accuracy_without_a_test_score_is_called_validation() -> None:
    full = samples.met()
    assert full.accuracy is not None
    changed = replace(full.accuracy, baseline_test=None, reached_test=None)
    assert "0.6 points less accurate (on validation)" in verdict(replace(full, accuracy=changed)).headline


def test_a_model_that_is_not_active_is_never_called_running() -> None:
    assert "running" not in verdict(replace(samples.met(), bundle=None)).headline


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.0605, "0.0605"),
        (9.996, "10.0"),
        (14.21, "14.2"),
        (1234.5, "1\u00a0234"),
        (0.0, "0"),
        (-2.5, "−2.50"),
    ],
)
def test_numbers_have_three_significant_digits_and_no_exponent(value: float, said: str) -> None:
    assert number(value) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.04, "< 0.1 s"), (8.4, "8.4 s"), (81.4, "81.4 s"), (2471.0, "41 min 11 s"), (7265, "2 h 1 min")],
)
def test_durations_are_said_as_a_person_would(value: float, said: str) -> None:
    assert seconds(value).replace("\u00a0", " ") == said


def test_long_names_lose_their_middle() -> None:
    assert shortened("features.denseblock4.denselayer16.conv2") == "featur…yer16.conv2"


def test_letters_that_no_page_can_hold_are_replaced() -> None:
    assert printable("a\x00b\u202ec\ud800d\ne") == "a\ufffdb\ufffdc\ufffdd e"


def test_words_are_joined_as_in_a_sentence() -> None:
    assert [listed(["a"]), listed(["a", "b"]), listed(["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
