"""Enrolling a board: see which key it shows, have somebody say that it is the right one, log in, write it down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.device.address import SshAddress, fingerprint
from pipeline.device.registry import SshDevice, require_name, write_device
from pipeline.device.ssh import known_as, known_host_keys, login, shown_host_key
from pipeline.errors import InputError, TransportError


@dataclass(frozen=True)
class ShownKey:
    """The key that a board shows, and whether the user's own ssh knows it by that key (`None`: it knows none)."""

    host_key: str
    known: bool | None

    @property
    def fingerprint(self) -> str:
        """As ssh prints it."""
        return fingerprint(self.host_key)

    @property
    def kind(self) -> str:
        """Such as ssh-ed25519."""
        return self.host_key.split()[0]


def enrol(
    name: str, profile: str, address: SshAddress, accept: Callable[[ShownKey], bool]
) -> tuple[SshDevice, Path]:
    """Pin a board's host key and remember the board; returns it and the file that says so.

    Args:
        name: what it is called from now on; an older device of that name is replaced.
        profile: what it is.
        address: how it is reached.
        accept: is shown the board's key and says whether it is the right one.

    Raises:
        InputError: the name is none for a device, or the key was not accepted.
        TransportError: the board cannot be reached, is not the one that ssh knows, or lets nobody in.
    """
    require_name(name)
    key = _shown(address, name)
    if not accept(key):
        raise InputError(f"the host key of {name!r} was not accepted; nothing was written")
    pinned = replace(address, host_key=key.host_key)
    login(pinned, name)
    entry = SshDevice(name, profile, pinned)
    return entry, write_device(entry)


def _shown(address: SshAddress, name: str) -> ShownKey:
    shown = shown_host_key(address, name)
    known = known_host_keys(address)
    if shown in known.revoked:
        raise TransportError(
            f"device {name!r}: {address.host} shows a host key that your known_hosts says is revoked: "
            f"{fingerprint(shown)}",
            hint="whoever has that key can pretend to be the board; find out why it is in use",
        )
    same_kind = [key for key in known.keys if key.split()[0] == shown.split()[0]]
    if shown not in known.keys and same_kind:
        raise TransportError(
            f"device {name!r}: {address.host} shows another host key than your own ssh knows it by: "
            f"known {fingerprint(same_kind[0])}, shown {fingerprint(shown)}",
            hint=f"was it installed anew? then `ssh-keygen -R '{known_as(address)}'`; "
            "if not, somebody may stand between you and the board",
        )
    return ShownKey(shown, (shown in known.keys) if known.keys else None)
