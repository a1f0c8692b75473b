"""Budgets by the real command on this computer: one that cannot be met, and three at once."""

from __future__ import annotations

import json
import re
from pathlib import Path

from deploy_home import make_home

WIDE_NET = '''
"""Two wide hidden layers: weights are nearly all of the time, of the memory and of the file."""

from torch import nn


def build() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 10)
    )
'''
QUICK = ("--floor", "1")  # what is looked at is what it costs, not how well it does


def test_three_budgets_at_once_are_all_met_as_measured(tmp_path: Path) -> None:
    home = make_home(tmp_path / "home", baseline_epochs=1)
    (home.folder / "small_net.py").write_text(WIDE_NET)
    target = home.folder / "result.json"
    shares = {"latency": 60, "model_peak": 70, "file": 70}
    budgets = [word for name, percent in shares.items() for word in ("--budget", f"{name}={percent}%")]
    process = home.run_deploy(*budgets, *QUICK, "--json", str(target))
    assert process.returncode == 0, process.stdout + process.stderr
    result = json.loads(target.read_text())
    lines = {line["resource"]: line for line in result["budgets"]}
    assert set(lines) == set(shares)
    for line in lines.values():
        assert line["reached"] <= line["limit"] < line["baseline"]
        assert line["met"] is True
    last, first = (result[name]["measurement"] for name in ("reached", "baseline"))
    assert last["latency_ms"]["p50"] <= 0.6 * first["latency_ms"]["p50"]
    for key in ("model_peak_bytes", "file_bytes"):
        assert last[key] <= 0.7 * first[key]


def test_a_budget_out_of_reach_ends_before_any_training_and_says_which_would_hold(home_like) -> None:
    home = home_like("out-of-reach")
    target = home.folder / "result.json"
    process = home.run_deploy("--budget", "latency=3%", "--budget", "file=90%", "--json", str(target))
    assert process.returncode == 3, process.stdout + process.stderr
    result = json.loads(target.read_text())
    assert [step["name"] for step in result["steps"] if "train" in step["name"]] == ["baseline: train"]
    assert not (home.agent_state / "active").exists()
    message = result["message"]
    assert "latency is in the way" in message
    assert "file" not in message
    (percent,) = re.findall(r"--budget latency=(\d+)%", message)
    assert f"--budget latency={percent}%" in process.stdout.replace("\n", " ")
    near, dense = (result[name]["latency_ms"]["p50"] for name in ("nearest", "baseline"))
    assert near <= int(percent) / 100 * dense <= 1.03 * near + 0.01 * dense
