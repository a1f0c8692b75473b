import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import device_agent
from device_agent import wire

PACKAGE = Path(device_agent.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))


def python39():
    """The command of a Python 3.9 that really runs, or None."""
    environment = {**os.environ, "PYENV_VERSION": os.environ.get("PYENV_VERSION", "3.9")}
    try:
        asked = subprocess.run(
            ["python3.9", "-c", "import sys; print(sys.executable)"],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
    except FileNotFoundError:
        return None
    return asked.stdout.strip() if asked.returncode == 0 else None


def test_the_daemon_imports_the_standard_library_only():
    code = (
        "import sys; before = set(sys.modules); import device_agent.cli, device_agent.serve.server;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent
    )
    strangers = set(found.stdout.split()) - set(sys.stdlib_module_names) - {"device_agent"}
    assert not {name for name in strangers if not name.startswith("_")}, strangers


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(PACKAGE)) for path in FILES])
def test_every_file_is_python_3_9(path):
    ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))


def test_no_file_imports_the_host_side():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[0] == "pipeline"], path


@pytest.mark.skipif(python39() is None, reason="no python3.9 that runs is on PATH")
def test_the_agent_serves_under_a_real_python_3_9(tmp_path):
    frames = wire.encode_frame({"hello": {"protocols": [1]}})
    done = subprocess.run(
        [str(python39()), "-m", "device_agent", "stdio", "--standalone", "--state", str(tmp_path)],
        input=frames + wire.encode_frame({"id": 1, "method": "status"}),
        capture_output=True,
        cwd=PACKAGE.parent,
        check=True,
    )
    assert b'"protocol":1' in done.stdout
    assert b'"python":"3.9.' in done.stdout


ROOMS = (
    "install",
    "serve",
    "updates",
    "work",
    "measure",
    "sensors",
)  # each may import those after it; facts belongs to sensors


def test_imports_between_the_rooms_run_one_way():
    wrong = []
    for path in FILES:
        place = path.relative_to(PACKAGE).parts
        room = ROOMS.index(place[0]) if place[0] in ROOMS else None
        if room is None or path.name == "worker.py":  # a worker brings together what the daemon keeps apart
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            names = (
                [f"{module}.{alias.name}" for alias in node.names] if module == "device_agent" else [module]
            )
            wrong += [
                f"{'/'.join(place)} imports {name}"
                for name in names
                if name.split(".")[0] == "device_agent"
                and name.split(".")[1] in ROOMS
                and ROOMS.index(name.split(".")[1]) < room
            ]
    assert not wrong
