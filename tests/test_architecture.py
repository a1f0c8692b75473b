"""The rules of the architecture: imports run one way, `import pipeline` is light, the agent stands alone."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the user inwards: a part may import from its own rank's own package and from later ranks only.
RANKS = [
    {"__main__"},
    {"cli"},
    {"conduct", "estimate"},
    {"summarize"},
    {"explain"},
    {"deploy"},
    {"fit", "method"},
    {"refinement"},
    {"feedback"},
    {"survey", "baseline"},
    {"workshop"},
    {"infeasible"},
    {"candidate", "replay", "fleet", "delivery", "bundle_source"},
    {"search", "recover", "convert", "device", "store", "report"},
    {"graph", "prune", "bundle", "signing", "host_runtime"},
    {"noise"},
    {"profile", "task"},
    {"profile_file", "task_file", "model_source"},
    {"data"},
    {"recipe", "toml_files", "variant"},
    {"resources", "measurement", "watch", "files", "threads", "host_memory"},
    {"errors"},
]
TOGETHER = {"graph", "prune"}  # one subject in two folders: a graph makes plans, criteria score a graph
RANK = {part: number for number, parts in enumerate(RANKS) for part in parts}


def _imports(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def _part(path: Path) -> str:
    return path.relative_to(ROOT / "pipeline").parts[0].removesuffix(".py")


def test_imports_run_one_way() -> None:
    wrong = []
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        part = _part(path)
        if part == "__init__":
            continue
        for name in _imports(path):
            top, _, rest = name.partition(".")
            target = rest.split(".")[0]
            if top != "pipeline" or target not in RANK or {part, target} <= TOGETHER or part == target:
                continue
            if RANK[target] <= RANK[part]:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_every_part_has_a_rank() -> None:
    parts = {_part(path) for path in (ROOT / "pipeline").rglob("*.py")} - {"__init__"}
    assert parts - set(RANK) == set()


def test_the_agent_never_imports_the_host() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "device_agent").rglob("*.py")
        for name in _imports(path)
        if name.split(".")[0] == "pipeline"
    ]
    assert wrong == []


def test_the_host_imports_only_the_wire_from_the_agent() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in (ROOT / "pipeline").rglob("*.py")
        for name in _imports(path)
        if name.startswith("device_agent") and not name.startswith("device_agent.wire")
    ]
    assert wrong == []


def test_only_the_store_speaks_sql() -> None:
    speakers = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "pipeline").rglob("*.py")
        if any(name.startswith("sqlite3") for name in _imports(path))
    }
    assert speakers == {"pipeline/store.py"}


def test_only_one_file_knows_paramiko() -> None:
    knowing = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "pipeline").rglob("*.py")
        if any(name.split(".")[0] == "paramiko" for name in _imports(path))
    }
    assert knowing == {"pipeline/device/ssh/connection.py"}


@pytest.mark.parametrize(
    "statement", ["import pipeline", "from pipeline.cli.main import run_command; run_command(['--help'])"]
)
def test_torch_is_not_loaded_before_it_is_needed(statement: str) -> None:
    code = f"{statement}; import sys; print([m for m in ('torch', 'onnx', 'matplotlib', 'scipy') if m in sys.modules])"
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert answer.stdout.splitlines()[-1] == "[]"
