"""Why a group has its width: what it cost and won agrees with the table and the importance that it was chosen on."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from synthetic_device import WIDTHS, SyntheticDevice, stairs

from pipeline.cli.main import run_command
from pipeline.explain import explain
from pipeline.measurement import Latency
from pipeline.report import render
from pipeline.report.stairs import staircases
from pipeline.report.summary import Candidate, GroupLine, RunSummary, to_json
from pipeline.search import Stairs
from pipeline.store import Store

GROUND = SyntheticDevice(stairs).survey()
NAMES = [name for name, choices in WIDTHS.items() if len(choices) > 1]
CHOSEN = {name: WIDTHS[name][len(WIDTHS[name]) // 2] for name in NAMES[:3]}


def lines() -> dict[str, GroupLine]:
    return {line.name: line for line in explain(GROUND, CHOSEN)}


def test_every_group_that_could_shrink_has_a_line_the_greatest_gain_first() -> None:
    found = explain(GROUND, CHOSEN)
    assert sorted(line.name for line in found) == sorted(NAMES)
    assert [line.won_ms for line in found] == sorted((line.won_ms for line in found), reverse=True)


def test_what_was_lost_and_won_is_the_difference_to_the_whole_group() -> None:
    whole_ms, found = GROUND.table_ms(CHOSEN), lines()
    for name, width in CHOSEN.items():
        line = found[name]
        assert (line.kept, line.whole) == (width, WIDTHS[name][-1])
        position = WIDTHS[name].index(width)
        assert line.lost == pytest.approx(GROUND.kept[name][-1] - GROUND.kept[name][position])
        assert line.won_ms == pytest.approx(GROUND.table_ms({**CHOSEN, name: WIDTHS[name][-1]}) - whole_ms)
    assert found[NAMES[-1]].lost == 0
    assert found[NAMES[-1]].won_ms == pytest.approx(0)


def test_the_widths_beside_it_say_what_they_would_do() -> None:
    name, width = next(iter(CHOSEN.items()))
    line, position = lines()[name], WIDTHS[name].index(width)
    assert line.wider is not None
    assert line.narrower is not None
    assert (line.narrower.width, line.wider.width) == (WIDTHS[name][position - 1], WIDTHS[name][position + 1])
    assert line.narrower.kept_more <= 0 <= line.wider.kept_more
    assert line.narrower.ms_more <= 0 <= line.wider.ms_more
    assert lines()[NAMES[-1]].wider is None


def test_the_staircase_is_told_where_there_is_one() -> None:
    name = NAMES[0]
    steps = Stairs(points=((8, 0.1), (16, 0.3)), widths=(8, 16))
    told = {line.name: line for line in explain(replace(GROUND, stairs={name: steps}), CHOSEN)}
    assert told[name].points == ((8, 0.1), (16, 0.3))
    assert not told[name].even
    assert told[NAMES[1]].even


def summary() -> RunSummary:
    steps = {name: Stairs(points=((8, 0.1), (16, 0.3)), widths=(8, 16)) for name in NAMES}
    groups = explain(replace(GROUND, stairs=steps), CHOSEN)
    took = Latency(1.0, None, None, None, 1.0, 0.9, 1.2)
    return RunSummary(
        "r", "now", "met", groups=groups, candidates=(Candidate("fit 1", "fit", took, calibrated_ms=1.02),)
    )


def test_the_drawing_is_one_picture_of_all_groups_and_names_them() -> None:
    drawn = staircases(summary().groups)
    assert drawn is not None
    texts = {element.text for element in ET.fromstring(str(drawn)).iter() if element.text}  # noqa: S314 - our own
    assert len([text for text in texts if text in {name[:18] for name in NAMES} or "…" in text]) >= 1
    assert staircases([]) is None
    assert staircases([replace(line, points=()) for line in summary().groups]) is None


def test_the_report_says_it_too() -> None:
    page = render(summary())
    assert "Why these widths" in page
    assert page.count("<svg") >= 1


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    opened = Store().create({"task": {"name": "t"}})
    opened.finish("met", "done", json.loads(to_json(replace(summary(), run=opened.id))))
    opened.close()
    return opened.id


def test_the_command_prints_a_table_and_how_right_each_prediction_was(
    run: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run_command(["search", "explain", run]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in NAMES)
    assert "fit 1: expected 1.02 ms, measured 1 ms (+2.0 %)" in said


def test_json_and_a_drawing_that_stands_alone(
    run: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    picture = tmp_path / "stairs.svg"
    assert run_command(["search", "explain", "latest", "--json", "--plot", str(picture)]) == 0
    assert {line["name"] for line in json.loads(capsys.readouterr().out)} == set(NAMES)
    assert ET.parse(picture).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own
    assert "var(" not in picture.read_text()


def test_a_run_that_chose_nothing_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    opened = Store().create({"task": {"name": "t"}})
    opened.finish("failed", "no such luck", json.loads(to_json(RunSummary(opened.id, "now", "failed"))))
    opened.close()
    assert run_command(["search", "explain", opened.id]) == 2
    assert "chose no widths" in capsys.readouterr().err
