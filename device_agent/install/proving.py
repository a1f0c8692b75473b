"""Tries a version before it is used: it must answer, load its runtimes and verify a signature, as the agent's users."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple, Optional

from device_agent.errors import RequestError
from device_agent.install.layout import AGENT_USER, WORKER_USER, Layout
from device_agent.install.target import Target
from device_agent.install.tree import LIB
from device_agent.install.trial import SIGNATURES

_SECONDS = 300.0  # nothing is compiled yet, and the board may be slow


class Proof(NamedTuple):
    """What works: the versions of the runtimes by name, and the files that they import."""

    runtimes: dict[str, str]
    verifies: bool
    imported: list[str]


def prove(layout: Layout, target: Target) -> Proof:
    """Try a version.

    Raises:
        RequestError: `not_checked`: it does not work on this board, and why.
    """
    tree = layout.trees / target.tree
    said = _ask(tree, ["device_agent", "self-test"], _identity(layout, AGENT_USER))
    if said.get("version") != target.version or Path(str(said.get("tree"))) != tree.resolve():
        raise RequestError("not_checked", f"version {target.version} was tried, and {said} answered")
    runtimes, imported = {}, []
    for name in target.runtimes:
        found = _try(layout, tree, name)
        runtimes[name] = str(found["version"])
        imported += found["modules"]
    try:
        imported += _try(layout, tree, SIGNATURES)["modules"]
    except RequestError:
        if target.verifies:
            raise
        return Proof(runtimes, False, imported)
    return Proof(runtimes, True, imported)


def environment(tree: Path) -> dict[str, str]:
    """Return what a process of a tree needs to find it, and nothing of who installs."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "PYTHONPATH": os.pathsep.join([str(tree.resolve()), str(tree.resolve() / LIB)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "HOME": "/",
    }


def _try(layout: Layout, tree: Path, name: str) -> dict[str, Any]:
    identity = _identity(layout, WORKER_USER)
    with tempfile.TemporaryDirectory(prefix="device-agent-") as scratch:
        os.chown(scratch, identity.get("user", -1), identity.get("group", -1))
        return _ask(tree, ["device_agent.install.trial", name, scratch], identity)


def _ask(tree: Path, module: list[str], identity: dict[str, Any]) -> dict[str, Any]:
    """Run a module of a tree and return the JSON object that it prints last."""
    what = module[1]
    try:
        done = subprocess.run(
            [sys.executable, "-m", *module],
            env=environment(tree),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            **identity,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RequestError("not_checked", f"{what} could not be tried: {error}") from error
    words = done.stderr.decode("utf-8", "replace").strip()[-500:]
    said = _last_object(done.stdout)
    if done.returncode < 0:
        ending = signal.Signals(-done.returncode).name
        raise RequestError(
            "not_checked", f"{what}: the process was ended by {ending}; {words}", _hint(ending)
        )
    if said is None or said.get("ok") is not True:
        raise RequestError(
            "not_checked", f"{what} does not work on this board: {(said or {}).get('why') or words}"
        )
    return said


def _hint(ending: str) -> str:
    return "the package was built for another processor" if ending == "SIGILL" else ""


def _last_object(output: bytes) -> Optional[dict[str, Any]]:
    try:
        found = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _identity(layout: Layout, name: str) -> dict[str, Any]:
    """Return the options of `subprocess` to run as one of the agent's users."""
    if not layout.system:
        return {}
    user = pwd.getpwnam(name)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
