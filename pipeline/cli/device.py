"""`pipeline device`: the devices this host knows, and how they are."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.table import Table

from pipeline.cli.provision import provision, unprovision
from pipeline.cli.text import printable
from pipeline.errors import DeviceError, InputError

if TYPE_CHECKING:
    from pipeline.device.enrol import ShownKey

_MARK = "log-of-the-device-agent"  # a key with a forced command runs something else, and does not print this


@click.group()
def device() -> None:
    """Make a board known, install the agent on it, and ask it how it is.

    \b
    Examples:
      pipeline device enroll rpi4 pi@192.0.2.10
      pipeline device provision rpi4
      pipeline device list
      pipeline device status rpi4
      pipeline device logs rpi4
      pipeline device forget rpi4
    """


device.add_command(provision)
device.add_command(unprovision)


@device.command()
@click.argument("name")
@click.argument("address", metavar="[USER@]HOST")
@click.option(
    "--port", type=click.IntRange(1, 65535), help="Of the board's SSH server.  [ssh_config, else 22]"
)
@click.option(
    "--identity",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="A private key's file.  [the SSH agent's keys, then those of the ssh_config]",
)
@click.option(
    "--profile", help="What the board is: a profile's name or file.  [NAME, if there is such a profile]"
)
@click.option("--fingerprint", metavar="SHA256:…", help="Accept this host key and no other, without asking.")
@click.option("--yes", is_flag=True, help="Accept whatever host key the board shows, without asking.")
def enroll(
    name: str,
    address: str,
    port: int | None,
    identity: Path | None,
    profile: str | None,
    fingerprint: str | None,
    yes: bool,
) -> None:
    """Make a board known under a NAME, and pin its host key.

    The key's fingerprint is shown; compare it with what the board itself says:
    ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub. From then on, a board that shows another key is refused. Host
    names, users, keys and jump hosts of your ~/.ssh/config are honoured; no password is ever stored.

    \b
    Examples:
      pipeline device enroll rpi4 pi@192.0.2.10
      pipeline device enroll shelf-3 root@192.0.2.30 --port 2222 --identity ~/.ssh/fleet --profile zero2w
    """
    from pipeline.device.address import SshAddress, parse_address
    from pipeline.device.enrol import enrol
    from pipeline.device.registry import require_name

    require_name(name)
    user, host = parse_address(address)
    chosen = _profile(name, profile)

    def accept(key: ShownKey) -> bool:
        if fingerprint is not None:
            return _matches(fingerprint, key)
        return yes or _ask(host, key)

    pinned = SshAddress(host, port, user, identity.absolute() if identity else None)
    _, file = enrol(name, chosen, pinned, accept)
    click.echo(f"{name} is known now ({file}); its profile is {chosen}")
    click.echo(f"next: pipeline device provision {name}")


@device.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_devices(as_json: bool) -> None:
    """List the known devices and their profiles; none of them is asked anything."""
    from pipeline.device.registry import LocalDevice, known_devices

    rows = [
        {
            "device": entry.name,
            "transport": entry.transport,
            "profile": entry.profile,
            "where": "this computer" if isinstance(entry, LocalDevice) else str(entry.address),
        }
        for entry in known_devices()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for heading in rows[0]:
        table.add_column(heading)
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


@device.command("status")
@click.argument("name")
def device_status(name: str) -> None:
    """Print everything that a device says of itself as JSON; `pipeline status` is the short form."""
    from pipeline.device.registry import open_device

    with open_device(name) as client:
        click.echo(json.dumps(asdict(client.status()), indent=2))


@device.command()
@click.argument("name")
@click.option("--lines", type=click.IntRange(1, 100_000), default=100, show_default=True, help="How many.")
def logs(name: str, lines: int) -> None:
    """Print the last lines of the agent's log on a board."""
    from pipeline.device.registry import find_board, open_shell

    with open_shell(find_board(name)) as shell:
        command = f"journalctl --unit=device-agent --no-pager --output=cat --lines={lines}"
        done = shell.run(f"echo {_MARK}; {command}")
    said_mark, _, log = done.stdout.partition(b"\n")
    if done.status != 0 or said_mark != _MARK.encode():
        said = done.stderr.decode("utf-8", "replace").strip() or f"exit status {done.status}"
        raise DeviceError(
            f"device {name!r}: its log cannot be read: {said if done.status else 'another command ran instead'}",
            hint="the log is the service's: an agent without one (--user) has none, a key with a forced command "
            "may not read it",
        )
    click.echo(printable(log.decode("utf-8", "replace")), nl=False)


@device.command()
@click.argument("name")
def forget(name: str) -> None:
    """Forget a device and its pinned host key; nothing changes on it (see `unprovision`)."""
    from pipeline.device.registry import remove_device

    remove_device(name)
    click.echo(f"{name} is forgotten; nothing was changed on it")


def _profile(name: str, profile: str | None) -> str:
    """Return the profile that is meant, which must be there."""
    from pipeline.errors import ProfileError
    from pipeline.profile import load_profile

    try:
        load_profile(profile or name)
    except ProfileError as error:
        if profile is not None:
            raise
        raise InputError(
            f"what is {name!r}? no profile is called so", hint="say it with --profile, such as --profile rpi4"
        ) from error
    found = Path(profile or name)
    return str(found.absolute()) if found.suffix == ".toml" and found.is_file() else str(found)


def _matches(wanted: str, key: ShownKey) -> bool:
    from pipeline.errors import TransportError

    if wanted != key.fingerprint:
        raise TransportError(
            f"the board shows the host key {key.fingerprint} ({key.kind}), not {wanted}",
            hint="compare with: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub on the board",
        )
    return True


def _ask(host: str, key: ShownKey) -> bool:
    click.echo(f"{host} shows the host key {key.fingerprint} ({key.kind})", err=True)
    if key.known:
        click.echo("your own ssh knows it by this key", err=True)
        return True
    if not sys.stdin.isatty():
        raise InputError(
            "the host key is not known, and there is no terminal to ask whether it is the right one",
            hint=f"--fingerprint {key.fingerprint} accepts it",
        )
    return click.confirm("is it the board's?", err=True)
