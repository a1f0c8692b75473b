"""Where an installation lies: for the whole system, or in the home folder of one user."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple, Optional

AGENT_USER, WORKER_USER = "device-agent", "device-agent-worker"
OPERATORS, APPLICATIONS = "device-agent-operators", "device-agent-applications"
UNIT = "device-agent.service"


class Layout(NamedTuple):
    """The places of one installation.

    Args:
        root: the folder of all versions.
        wrapper: the command.
        state: the agent's state folder, which installing does not touch.
        system: there is a service with users of its own; else somebody's own agent, which runs when it is asked.
    """

    root: Path
    wrapper: Path
    state: Path
    system: bool

    @property
    def wheels(self) -> Path:
        """Return the folder of unpacked wheels, each of which many trees may use."""
        return self.root / "wheels"

    @property
    def trees(self) -> Path:
        """Return the folder of versions."""
        return self.root / "trees"

    @property
    def current(self) -> Path:
        """Return the link to the version in use."""
        return self.root / "current"

    @property
    def previous(self) -> Path:
        """Return the link to the version before."""
        return self.root / "previous"

    @property
    def unproven(self) -> Path:
        """Return the note that `current` has not answered yet."""
        return self.root / "unproven.json"

    @property
    def incoming(self) -> Path:
        """Return the folder of uploads."""
        return self.root / "incoming"

    @property
    def unit(self) -> Path:
        """Return the unit file of the service."""
        return Path("/etc/systemd/system") / UNIT

    @property
    def settings(self) -> Path:
        """Return the folder of what the administrator decides."""
        return Path("/etc/device-agent")

    @property
    def keys(self) -> Path:
        """Return the file of trusted keys."""
        return self.settings / "trusted_keys.json"

    @property
    def socket(self) -> Path:
        """Return where the service listens."""
        return Path("/run/device-agent/agent.sock")

    def target_of(self, link: Path) -> Optional[str]:
        """Return the name of the tree that a link points at, or `None` if there is no such link."""
        try:
            return Path(os.readlink(link)).name  # noqa: PTH115
        except FileNotFoundError:
            return None


def of_system() -> Layout:
    """Return the places of the system's agent."""
    return Layout(
        Path("/opt/device-agent"), Path("/usr/local/bin/device-agent"), Path("/var/lib/device-agent"), True
    )


def of_user(home: Path) -> Layout:
    """Return the places of one user's own agent."""
    root = home / ".local/share/device-agent"
    return Layout(root, root / "bin/device-agent", home / ".local/state/device-agent", False)
