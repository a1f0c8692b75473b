"""The devices that this host knows by name.

"local" is always there. Others are tables of `devices.toml` in the user's configuration folder:

    [devices.bench]
    transport = "local"        # how to reach its agent
    profile = "rpi4"           # what it is: a profile's name or file
    state = "~/bench-state"    # where its agent keeps files; may be left out
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs
from pydantic import Field

from pipeline.device.client import DeviceClient
from pipeline.device.local import LocalTransport
from pipeline.errors import InputError
from pipeline.toml_files import Table, check, closest, read_toml

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class DeviceEntry:
    """A known device: its name, how its agent is reached, its profile, and the agent's state folder."""

    name: str
    transport: Literal["local"]
    profile: str
    state_folder: Path


class _DeviceTable(Table):
    transport: Literal["local"] = Field(description='"local"')
    profile: str = Field(min_length=1, description='the name or file of a profile, such as "rpi4"')
    state: str | None = Field(default=None, min_length=1, description="a folder")


class _DevicesFile(Table):
    devices: dict[str, object] = Field(default_factory=dict, description="tables [devices.NAME]")


def devices_file() -> Path:
    """Return where the user's devices are listed (the file may not exist)."""
    return platformdirs.user_config_path("pipeline") / "devices.toml"


def known_devices() -> tuple[DeviceEntry, ...]:
    """Return all known devices, "local" first.

    Raises:
        InputError: `devices.toml` is not valid; every fault of a table is named.
    """
    entries = {"local": DeviceEntry("local", "local", "local", _state_folder("local"))}
    path = devices_file()
    if path.exists():
        listed = check(read_toml(path, InputError), _DevicesFile, str(path), InputError)
        entries |= {name: _entry(name, table, path) for name, table in listed.devices.items()}
    return tuple(entries.values())


def find_device(name: str) -> DeviceEntry:
    """Return the device of this name.

    Raises:
        InputError: there is none; the message lists the known ones.
    """
    entries = {entry.name: entry for entry in known_devices()}
    if name not in entries:
        raise InputError(
            f"no device is called {name!r}",
            hint=f"{closest(name, entries)}known: {', '.join(entries)}; others go into {devices_file()}",
        )
    return entries[name]


def open_device(name: str) -> DeviceClient:
    """Connect to a device's agent (for the local transport: start it); close the client when done.

    Raises:
        InputError: there is no device of this name.
        AgentError: the agent refuses (its state folder is in use, for one).
        TransportError: the agent cannot be reached.
    """
    entry = find_device(name)
    return DeviceClient(LocalTransport(entry.state_folder, entry.name))


def _entry(name: str, raw: object, path: Path) -> DeviceEntry:
    where = f"{path}: devices.{name}"
    if not _NAME.fullmatch(name):
        raise InputError(f"{where}: a device's name is made of letters, digits, '.', '_' and '-'")
    if not isinstance(raw, dict):
        raise InputError(f"{where}: found no table", hint=f"write [devices.{name}]")
    table = check(raw, _DeviceTable, where, InputError)
    state = Path(table.state).expanduser() if table.state else _state_folder(name)
    return DeviceEntry(name, table.transport, table.profile, state)


def _state_folder(name: str) -> Path:
    return platformdirs.user_state_path("pipeline") / "devices" / name
