"""`pipeline key`: the keys that bundles are signed with, and the lists of keys that boards trust."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from pipeline.signing import PublicKey

_KEY = click.option(
    "--key",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The key's file; by default your own.",
)


@click.group()
def key() -> None:
    """Make a signing key, show it, and write the list of keys that a board trusts.

    A board that was given such a list activates only bundles that one of its keys signed. `pipeline deploy` signs
    with your own key as soon as there is one.

    \b
    Examples:
      pipeline key new
      pipeline key show > alice.json
      pipeline key trust trusted_keys.json --add alice.json --add ci.json
      pipeline key trust trusted_keys.json --revoke 1f0c8e7a52b3d946
    """


@key.command("new")
@_KEY
def new(path: Path | None) -> None:
    """Make a key; the file is readable for you alone. Whoever has it can replace the models of your boards."""
    from pipeline.signing import default_key_file, new_key

    made = new_key(path or default_key_file())
    click.echo(f"key {made.public.id} is in {made.path}; keep it as you keep a password")


@key.command("show")
@_KEY
def show(path: Path | None) -> None:
    """Print the public part of a key as JSON."""
    from pipeline.signing import default_key_file, load_key

    click.echo(json.dumps(asdict(load_key(path or default_key_file()).public)))


@key.command("trust")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--add",
    "added",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    multiple=True,
    help="Public part of a key, as `pipeline key show` prints it.",
)
@click.option("--revoke", "revoked", metavar="ID", multiple=True, help="Never trust this key again.")
@click.option("--remove", "removed", metavar="ID", multiple=True, help="Take a key off the list.")
def trust(file: Path, added: tuple[Path, ...], revoked: tuple[str, ...], removed: tuple[str, ...]) -> None:
    """Write or change a list of trusted keys, and print who is on it."""
    from pipeline.signing import read_trusted, write_trusted

    keys, gone = read_trusted(file)
    listed = {each.id: each for each in [*keys, *map(_public, added)] if each.id not in removed}
    gone = [*gone, *revoked]
    if added or revoked or removed:
        write_trusted(file, list(listed.values()), gone)
    for each in listed.values():
        click.echo(f"{each.id}  {each.owner}{'  REVOKED' if each.id in gone else ''}")


def _public(path: Path) -> PublicKey:
    from pipeline.errors import InputError
    from pipeline.signing import PublicKey

    try:
        return PublicKey(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is no public key", hint="pipeline key show > FILE") from error
