"""The devices that this host knows by name.

"local" is always there. Every other has a file of its own, NAME.toml, in the folder `devices` of the user's
configuration; `pipeline device enroll` writes it, and an editor may:

    transport = "ssh"                  # how to reach its agent
    host = "192.0.2.10"                # or an alias of the ssh_config
    port = 22                          # may be left out, as user and identity: then ssh_config says
    user = "pi"
    identity = "~/.ssh/id_pi"
    host_key = "ssh-ed25519 AAAA…"     # the only key that the board may show
    agent = "device-agent stdio"       # the command that connects to its agent
    profile = "rpi4"                   # what it is: a profile's name or file

    transport = "local"                # an agent on this computer
    profile = "rpi4"
    state = "~/bench-state"            # where its agent keeps files; may be left out
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import platformdirs
from pydantic import Field

from pipeline.device.address import SshAddress, fingerprint
from pipeline.device.client import DeviceClient
from pipeline.device.local import LocalTransport
from pipeline.device.retry import PATIENT, Notice
from pipeline.errors import AgentError, InputError, LinkLostError, TransportError
from pipeline.files import storage_error, write_text
from pipeline.toml_files import Table, check, closest, read_toml

if TYPE_CHECKING:
    from pipeline.device.ssh import SshShell

AGENT_COMMAND = "device-agent stdio"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class LocalDevice:
    """An agent on this computer: its name, its profile, and the agent's state folder."""

    name: str
    profile: str
    state_folder: Path

    transport = "local"


@dataclass(frozen=True)
class SshDevice:
    """A board behind SSH: its name, its profile, how it is reached, and the command that connects to its agent."""

    name: str
    profile: str
    address: SshAddress
    agent: str = AGENT_COMMAND

    transport = "ssh"


DeviceEntry = LocalDevice | SshDevice


class _LocalTable(Table):
    transport: Literal["local"] = Field(description='"local" or "ssh"')
    profile: str = Field(min_length=1, description='the name or file of a profile, such as "rpi4"')
    state: str | None = Field(default=None, min_length=1, description="a folder")


class _SshTable(Table):
    transport: Literal["ssh"] = Field(description='"local" or "ssh"')
    profile: str = Field(min_length=1, description='the name or file of a profile, such as "rpi4"')
    host: str = Field(min_length=1, description="a name, an address or an alias of the ssh_config")
    host_key: str = Field(min_length=1, description='such as "ssh-ed25519 AAAA…"')
    port: int | None = Field(default=None, ge=1, le=65535, description="1 to 65535")
    user: str | None = Field(default=None, min_length=1, description="a user of the board")
    identity: str | None = Field(default=None, min_length=1, description="the file of a private key")
    agent: str = Field(default=AGENT_COMMAND, min_length=1, description="a command on the board")


def devices_folder() -> Path:
    """Return where the files of the user's devices are (the folder may not exist)."""
    return platformdirs.user_config_path("pipeline") / "devices"


def known_devices() -> tuple[DeviceEntry, ...]:
    """Return all known devices, "local" first.

    Raises:
        InputError: a device's file is not valid; every fault of it is named.
    """
    entries: dict[str, DeviceEntry] = {"local": LocalDevice("local", "local", _state_folder("local"))}
    for path in sorted(devices_folder().glob("*.toml")):
        entries[path.stem] = _read(path)
    return tuple(entries.values())


def find_device(name: str) -> DeviceEntry:
    """Return the device of this name.

    Raises:
        InputError: there is none (the message lists the known ones), or its file is not valid.
    """
    path = _file(name)
    if path is not None and path.is_file():
        return _read(path)
    if name == "local":
        return LocalDevice("local", "local", _state_folder("local"))
    names = ["local", *sorted(path.stem for path in devices_folder().glob("*.toml"))]
    raise InputError(
        f"no device is called {name!r}",
        hint=f"{closest(name, names)}known: {', '.join(names)}; `pipeline device enroll NAME USER@HOST` adds one",
    )


def find_board(name: str) -> SshDevice:
    """Return the device of this name, which must be one behind SSH.

    Raises:
        InputError: it is not, or there is none.
    """
    entry = find_device(name)
    if not isinstance(entry, SshDevice):
        raise InputError(
            f"the device {name!r} is on this computer; this is for boards that are reached by SSH"
        )
    return entry


def write_device(entry: DeviceEntry) -> Path:
    """Write a device's file, all or nothing; a device of the same name is replaced. Returns the file.

    Raises:
        InputError: the name is none for a file.
        StorageError: the folder is not writable.
    """
    path = require_name(entry.name)
    lines = [f"{key} = {_toml(value)}" for key, value in _fields(entry).items() if value is not None]
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, path.parent) from error
    write_text(path, "\n".join(lines) + "\n")
    return path


def remove_device(name: str) -> None:
    """Forget a device; nothing changes on it.

    Raises:
        InputError: there is none of this name.
        StorageError: the folder is not writable.
    """
    find_device(name)
    path = require_name(name)
    try:
        path.unlink()
    except FileNotFoundError:
        raise InputError(f"the device {name!r} is always there") from None
    except OSError as error:
        raise storage_error(error, path) from error


def require_name(name: str) -> Path:
    """Return the file of a device of this name.

    Raises:
        InputError: the name is none for a device.
    """
    path = _file(name)
    if path is None:
        raise InputError(f"{name!r}: a device's name is made of letters, digits, '.', '_' and '-'")
    return path


def open_device(name: str, notice: Notice | None = None) -> DeviceClient:
    """Connect to a device's agent (for the local transport: start it); close the client when done.

    Args:
        name: of the device.
        notice: is told when a link broke and is opened again.

    Raises:
        InputError: there is no device of this name.
        AgentError: the agent refuses (its state folder is in use, for one).
        TransportError: the agent cannot be reached.
    """
    entry = find_device(name)
    if isinstance(entry, LocalDevice):
        return DeviceClient(LocalTransport(entry.state_folder, entry.name))
    from pipeline.device.ssh import SshShell, SshTransport

    transport = SshTransport(SshShell(entry.address, name), entry.agent, name, owns=True)
    try:
        return DeviceClient(transport, PATIENT, notice)
    except LinkLostError as error:
        if transport.command_is_missing:
            raise TransportError(
                error.message, hint=f"`pipeline device provision {name}` installs it"
            ) from error
        raise
    except AgentError as error:
        if error.code == "protocol_mismatch":
            error.hint += f": pipeline device provision {name}"
        raise


def open_shell(entry: SshDevice) -> SshShell:
    """Return a way to run commands on a board; it connects when it is first used."""
    from pipeline.device.ssh import SshShell

    return SshShell(entry.address, entry.name)


def _read(path: Path) -> DeviceEntry:
    if not _NAME.fullmatch(path.stem):
        raise InputError(f"{path}: a device's name is made of letters, digits, '.', '_' and '-'")
    raw = read_toml(path, InputError)
    if raw.get("transport") == "ssh":
        return _ssh_device(path, check(raw, _SshTable, str(path), InputError))
    table = check(raw, _LocalTable, str(path), InputError)
    state = Path(table.state).expanduser() if table.state else _state_folder(path.stem)
    return LocalDevice(path.stem, table.profile, state)


def _ssh_device(path: Path, table: _SshTable) -> SshDevice:
    try:
        fingerprint(table.host_key)
    except InputError as error:
        raise InputError(f"{path}: host_key: {error.message}", hint=error.hint) from error
    identity = Path(table.identity).expanduser() if table.identity else None
    address = SshAddress(table.host, table.port, table.user, identity, table.host_key)
    return SshDevice(path.stem, table.profile, address, table.agent)


def _fields(entry: DeviceEntry) -> dict[str, object]:
    """Return what a device's file says."""
    if isinstance(entry, LocalDevice):
        return {"transport": "local", "profile": entry.profile, "state": entry.state_folder}
    address = asdict(entry.address)
    return {"transport": "ssh", "profile": entry.profile, **address, "agent": entry.agent}


def _toml(value: object) -> str:
    """Return a value as TOML; a JSON string is one of TOML's, too."""
    return str(value) if isinstance(value, int) else json.dumps(str(value), ensure_ascii=False)


def _file(name: str) -> Path | None:
    return devices_folder() / f"{name}.toml" if _NAME.fullmatch(name) else None


def _state_folder(name: str) -> Path:
    return platformdirs.user_state_path("pipeline") / "devices" / name
