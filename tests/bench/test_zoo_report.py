"""The zoo's report says what was measured: who passed, who failed and why, who was slower."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from zoo_report import fault, write


def _ours(model: str, after: int = 30, seconds: float = 0.2, **more: Any) -> dict[str, Any]:
    record = {"model": model, "column": "ours", "revision": "abc", "ok": True, "parameters_before": 100}
    record |= {"parameters_after": after, "seconds": seconds, "export_seconds": 1.0, "form": "module"}
    return record | {"checks": {"exact": 1e-15, "onnx": ["torchscript", 2e-7]}, "faults": {}} | more


def _theirs(model: str, seconds: float = 0.5, **more: Any) -> dict[str, Any]:
    record = {"model": model, "column": "torch-pruning", "revision": "tp", "ok": True, "stage": "forward"}
    return record | {"parameters_before": 100, "parameters_after": 25, "seconds": seconds} | more


def test_the_summary_counts_passes_and_cuts(tmp_path: Path) -> None:
    failed = _ours("timm/b", ok=False, faults={"exact": "CheckError: off by\n 0.1"})
    text = write(tmp_path, [_ours("timm/a"), failed, _ours("torchvision/c", after=60)])
    assert "all: 2 of 3 pass (66.7%)" in text
    assert "timm: 1 of 2 pass (50.0%)" in text
    assert "median 70.0%, least 40.0% (torchvision/c); below 50% on 1: torchvision/c 40%" in text
    assert "timm/b: exact: CheckError: off by 0.1" in text


def test_a_later_result_stands_for_the_model(tmp_path: Path) -> None:
    text = write(tmp_path, [_ours("timm/a", ok=False, faults={"train": "no"}), _ours("timm/a")])
    assert "all: 1 of 1 pass" in text


def test_slower_models_are_named_where_the_other_finished(tmp_path: Path) -> None:
    hung = _theirs("timm/c", ok=False, stage="prune", error="not done within 120 s")
    del hung["parameters_after"], hung["seconds"]
    ours = [_ours("timm/a", seconds=0.9), _ours("timm/b", seconds=0.1), _ours("timm/c", seconds=9.0)]
    text = write(tmp_path, [*ours, _theirs("timm/a"), _theirs("timm/b"), hung])
    assert "slower than Torch-Pruning on 1: timm/a (0.90 against 0.50)" in text
    assert "Torch-Pruning: 2 of 3 run after pruning (66.7%), 1 not done in time" in text


def test_the_csv_has_a_line_a_model_and_the_table_both_columns(tmp_path: Path) -> None:
    write(tmp_path, [_ours("timm/a"), _theirs("timm/a"), _theirs("timm/z", ok=False)])
    with (tmp_path / "zoo.csv").open() as file:
        first, second = csv.DictReader(file)
    assert (first["model"], first["ours_cut"], first["theirs_cut"]) == ("timm/a", "0.7", "0.75")
    assert (second["ours_passed"], second["theirs_passed"]) == ("", "False")
    table = (tmp_path / "zoo.md").read_text()
    assert "| timm/a | 0.00 M | 70.0% | 0.20 | 1.00 | 1e-15 | 2e-07 | module | 75.0% | 0.50 |" in table
    assert "fails in forward" in table


def test_a_fault_names_its_stage() -> None:
    assert fault({"ok": False, "stage": "trace", "error": "out of memory"}) == "trace: out of memory"
