"""How one agent is set up: what `device-agent serve` was told."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

LAUNCHED = "DEVICE_AGENT_LAUNCHED"  # set by `device-agent launch` for the agent that it becomes


class Settings(NamedTuple):
    """Everything that provisioning decides.

    Args:
        state: the state folder.
        keys: the file of trusted keys; with it, only signed bundles are staged. `None`: any bundle is.
        hooks: folder of the hooks `before-measure` and `after-measure`.
        worker_user: the user that workers run as; `None`: the agent's own.
        quota_bytes: most that uploaded files may take; `None`: what the disk has.
        energy_meter: where an external meter's readings come from.
        updates_itself: it was started by `device-agent launch`, which can go back to the version before.
    """

    state: Path
    keys: Optional[Path] = None
    hooks: Optional[Path] = None
    worker_user: Optional[str] = None
    quota_bytes: Optional[int] = None
    energy_meter: Optional[str] = None
    updates_itself: bool = False


class Listening(NamedTuple):
    """Where the daemon listens and who is let in: the socket, its group, and the groups that have roles."""

    path: Path
    group: Optional[str] = None
    operators: Sequence[str] = ()
    applications: Sequence[str] = ()


def told(settings: Settings, listening: Listening) -> str:
    """Return an agent's whole set-up as JSON, for `launched`."""
    return json.dumps({"settings": settings._asdict(), "listening": listening._asdict()}, default=str)
