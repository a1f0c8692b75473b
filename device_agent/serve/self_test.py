"""Says whether this agent works: every file of it compiles, and it answers a host from an empty state folder."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from device_agent import __version__, wire
from device_agent.errors import RequestError

_SECONDS = 60.0


def run() -> dict[str, Any]:
    """Return ok, version and tree.

    Raises:
        RequestError: `internal`, saying what does not work.
    """
    package = Path(__file__).resolve().parents[1]
    try:
        for path in package.rglob("*.py"):
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
    except (SyntaxError, ValueError, OSError) as error:
        raise RequestError("internal", f"a file of {package} does not compile: {error}") from error
    with tempfile.TemporaryDirectory(prefix="device-agent-") as state:
        status = _status(Path(state))
    if status.get("agent_version") != __version__:
        raise RequestError("internal", f"version {__version__} was started, {status} answered")
    return {"ok": True, "version": __version__, "tree": str(package.parent)}


def _status(state: Path) -> dict[str, Any]:
    requests = wire.encode_frame({"hello": {"protocols": [wire.PROTOCOL]}}) + wire.encode_frame(
        {"id": 1, "method": "status"}
    )
    package = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-m", "device_agent", "stdio", "--standalone", "--state", str(state)]
    environment = {**os.environ, "PYTHONPATH": package}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=state
    ) as process:
        assert process.stdin and process.stdout  # noqa: S101, PT018 - asked for above
        try:
            process.stdin.write(requests)
            process.stdin.flush()
            wire.read_frame(process.stdout)
            answer = wire.read_frame(process.stdout)
            process.stdin.close()
            process.wait(timeout=_SECONDS)
        except (OSError, wire.WireError, subprocess.TimeoutExpired) as error:
            raise RequestError("internal", f"the agent does not answer: {error}") from error
        finally:
            process.kill()
    result: dict[str, Any] = answer.header.get("result", {}) if answer else {}
    return result
