"""The installer's process: `main` is called by the few lines that a host sends (see `pipeline.device.provision`)."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from device_agent.install.installer import Installer
from device_agent.install.layout import of_system, of_user
from device_agent.serve.stdio import serve_alone

_FORGOTTEN_S = 300.0
_LOOK_S = 5.0


def main(options: str, package: str) -> int:
    """Serve the host at stdin and stdout; returns the exit status.

    Args:
        options: JSON: `system` (or in the user's home folder), `looks_only`.
        package: the zip file that this package is imported from.
    """
    told = json.loads(options)
    layout = of_system() if told["system"] else of_user(Path.home())
    looks_only = told["looks_only"] is True
    os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    os.umask(0o022)
    if not looks_only:
        _leave_session()

    def installer() -> Installer:
        if not looks_only:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
        made = Installer(layout, Path(package), looks_only=looks_only)
        threading.Thread(target=_end_when_forgotten, args=(made,), daemon=True).start()
        return made

    return serve_alone(None if looks_only else layout.root, installer)


def _end_when_forgotten(installer: Installer) -> None:
    """End a process whose host is gone without a word, so that it keeps nobody out; a link may die so silently."""
    while installer.idle_s() < _FORGOTTEN_S:
        time.sleep(_LOOK_S)
    os._exit(0)


def _leave_session() -> None:
    """Go on in a session apart: whoever ends the connection, and sudo with it, does not end a step half-way."""
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    os.setsid()
    sys.stdout.flush()
