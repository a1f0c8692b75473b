"""`pipeline device`: the devices this host knows, and how they are."""

from __future__ import annotations

import json
from dataclasses import asdict

import click
from rich.console import Console
from rich.table import Table


@click.group()
def device() -> None:
    """List devices, or ask one how it is.

    \b
    Examples:
      pipeline device list
      pipeline device status local
    """


@device.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def list_devices(as_json: bool) -> None:
    """List the known devices and their profiles."""
    from pipeline.device.registry import known_devices

    entries = known_devices()
    if as_json:
        rows = [{"device": e.name, "transport": e.transport, "profile": e.profile} for e in entries]
        click.echo(json.dumps(rows, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("device", "transport", "profile"):
        table.add_column(heading)
    for entry in entries:
        table.add_row(entry.name, entry.transport, entry.profile)
    Console().print(table)


@device.command("status")
@click.argument("name")
def device_status(name: str) -> None:
    """Print a device's facts, runtimes and active model as JSON."""
    from pipeline.device.registry import open_device

    with open_device(name) as client:
        click.echo(json.dumps(asdict(client.status()), indent=2))
