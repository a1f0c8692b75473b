"""Versions of this agent as unpacked trees, of which the newest that proved itself is started.

`device-agent launch` (the command of the unit file) runs from the tree that provisioning installed, which no
update ever touches. It starts the agent of the active bundle of kind "agent", if there is one that is whole and not
older than the installed one.
A newly activated one commits itself once it serves; one that did not within `STARTS` starts is rolled back by
the launcher, so a version that cannot even start needs nobody's help.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn, Optional

from device_agent import __version__
from device_agent.errors import RequestError
from device_agent.log import log
from device_agent.settings import LAUNCHED, Listening, Settings, told
from device_agent.updates import staging
from device_agent.updates.store import FileStore
from device_agent.updates.update import Updater
from device_agent.updates.versions import newer
from device_agent.work import offspring
from device_agent.work.pipes import Pipes, TooMuchError

AGENT_FOLDER = "agent"
STARTS = 3
EXIT_RESTART = 75  # EX_TEMPFAIL: the unit starts the launcher again
_SELF_TEST_S = 120.0
_UNSERVED = "unserved-starts"


def launch(settings: Settings, listening: Listening) -> NoReturn:
    """Become the daemon of the newest version that may run."""
    offspring.adopt_orphans()
    tree = newest_tree(settings.state)
    own = Path(__file__).resolve().parents[2]
    path = _first(tree or own, os.environ.get("PYTHONPATH"))
    environment = {**os.environ, LAUNCHED: "1", "PYTHONPATH": path}
    log("info", "launch", tree=str(tree or "installed"))
    isolated = ["-P"] if sys.version_info >= (3, 11) else []
    # without site-packages (-S): it needs none, its workers do without being told, and it is 0.5 MB smaller
    command = [
        sys.executable,
        "-S",
        "-B",
        *isolated,
        "-m",
        "device_agent.serve.launched",
        told(settings, listening),
    ]
    os.execve(sys.executable, command, environment)  # noqa: S606


def newest_tree(state: Path) -> Optional[Path]:
    """Count this start, roll back what had its starts, and return the tree to start; `None`: the installed one."""
    try:
        updater = Updater(state / AGENT_FOLDER, FileStore(state), "agent", STARTS)
        current = updater.status().current
        if current is None:
            return None
        folder = updater.folder_of(current)
        version = staging.agent_version(folder)
        if newer(__version__, version):
            why = f"the installed version {__version__} is newer than {version} of {folder.name}"
            log("info", "launch", why=why)
            if updater.status().state == "activated":
                updater.roll_back(why=why)
            return None
        unserved = _count_start(state)
    except (RequestError, OSError) as error:
        log("error", "launch", why=f"the agent's updates cannot be read: {error}")
        return None
    spoiled = staging.spoiled_files(folder)
    if spoiled:
        log("error", "launch", why=f"{folder} is spoiled: {', '.join(spoiled)[:200]}")
        return None
    if unserved > STARTS:  # committed, and yet it starts no more: another Python on the board, perhaps
        log("error", "launch", why=f"{folder} was started {STARTS} times and never served")
        return None
    return folder


def served(state: Path) -> None:
    """Note that the agent that was launched serves."""
    with contextlib.suppress(OSError):
        (state / AGENT_FOLDER / _UNSERVED).unlink()


def runs_from(folder: Path) -> bool:
    """Say whether this very process was started from a bundle's folder."""
    return folder.resolve() in Path(__file__).resolve().parents


def _count_start(state: Path) -> int:
    """Return how many starts there were since an agent served, this one among them."""
    path = state / AGENT_FOLDER / _UNSERVED
    try:
        count = int(path.read_text(encoding="ascii")) + 1
    except (OSError, ValueError):
        count = 1
    with contextlib.suppress(OSError):
        path.write_text(str(count), encoding="ascii")
    return count


def self_test(tree: Path) -> dict[str, Any]:
    """Start the agent of a tree beside this one, with an empty state folder, and hear whether it works.

    Returns:
        ok, and the agent's `version` or `why` not.
    """
    command = [sys.executable, "-m", "device_agent", "self-test"]
    environment = {**os.environ, "PYTHONPATH": _first(tree, None), "PYTHONDONTWRITEBYTECODE": "1"}
    process, pipe = None, subprocess.PIPE
    try:
        process = offspring.start(
            command, env=environment, cwd="/", stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe
        )
        with Pipes(process, process.stderr, process.stdout) as pipes:
            lines = list(pipes.lines(_SELF_TEST_S))
        said = json.loads(b"".join(lines)) if lines else {}
    except (OSError, ValueError, TooMuchError) as error:
        return {"ok": False, "why": f"the new agent does not start: {error}"}
    finally:
        if process is not None:
            offspring.end(process)
    if said.get("ok") is not True:
        return {"ok": False, "why": f"the new agent fails its own test: {pipes.tail[-500:] or said}"}
    if Path(str(said.get("tree"))) != tree.resolve():
        return {"ok": False, "why": f"another agent answered, from {said.get('tree')}"}
    return {"ok": True, "version": said["version"]}


def _first(tree: Path, path: Optional[str]) -> str:
    """Return PYTHONPATH with a tree before everything that was in it."""
    return os.pathsep.join(filter(None, [str(tree.resolve()), path]))
