"""`pipeline device provision` and `unprovision`: the agent onto a board, and off it again."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape

from pipeline.cli.text import printable

if TYPE_CHECKING:
    from pipeline.device.provision.install import Report
    from pipeline.device.provision.plan import Plan
    from pipeline.device.registry import SshDevice
    from pipeline.watch import Advance

_USER = click.option(
    "--user", is_flag=True, help="In your home folder on the board: no sudo, no service, no users of its own."
)
_DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Say what would be done, and change nothing on the board."
)
_SUDO = click.option(
    "--ask-sudo-password", is_flag=True, help="Ask for sudo's password on the board; it is not kept."
)
_YES = click.option("--yes", is_flag=True, help="Do not ask before it is done.")
_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON, and ask nothing.")


@click.command()
@click.argument("name")
@_USER
@_DRY_RUN
@click.option(
    "--runtime",
    "runtimes",
    type=click.Choice(["onnxruntime", "tflite"]),
    multiple=True,
    help="A model runtime to install (may be repeated).  [all that there are for the board]",
)
@click.option(
    "--wheels",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Take the board's packages from this folder; nothing is fetched.",
)
@click.option(
    "--trust",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Trusted keys for the board (`pipeline key trust`).  [what it has, else your own key]",
)
@_SUDO
@_YES
@_JSON
def provision(
    name: str,
    user: bool,
    dry_run: bool,
    runtimes: tuple[str, ...],
    wheels: Path | None,
    trust: Path | None,
    ask_sudo_password: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Install the agent on the board NAME, or bring it up to date.

    The board needs Linux, SSH and Python 3.9 or newer; no internet and no pip. This host finds the packages that fit
    the board, sends them, and the board tries the new version before it switches to it. What is in use there stays
    until the new version has answered. Run it again after it was interrupted: it goes on where it stopped.

    \b
    Examples:
      pipeline device provision rpi4 --dry-run
      pipeline device provision rpi4
      pipeline device provision zero2w --runtime tflite --ask-sudo-password
      pipeline device provision shelf-3 --user
    """
    from pipeline.device.provision.install import carry_out
    from pipeline.device.provision.plan import Wish, make_plan
    from pipeline.device.registry import find_board, open_shell
    from pipeline.errors import InputError

    if user and trust is not None:
        raise InputError("--trust is for the system's agent; with --user, whoever logs in there is trusted")
    entry = find_board(name)
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    with open_shell(entry) as shell, _Screen(console) as screen:
        plan = make_plan(shell, Wish(not user, runtimes, wheels, trust), screen.status)
        screen.close()
        _show_plan(console, plan)
        report = None
        if plan.steps and not dry_run:
            _confirm(f"Install it on {name}?", yes=yes or as_json)
            password = _password(entry, ask=ask_sudo_password and plan.system)
            report = carry_out(shell, plan, screen, password)
        screen.close()
    if not dry_run:
        _remember(entry, plan.agent_command)
    if as_json:
        click.echo(json.dumps(_as_json(plan, report), indent=2))
    elif not dry_run:
        _try(console, name, report)


@click.command()
@click.argument("name")
@_USER
@click.option("--purge", is_flag=True, help="Remove its models, measurements, settings and users, too.")
@_DRY_RUN
@_SUDO
@_YES
@_JSON
def unprovision(
    name: str, user: bool, purge: bool, dry_run: bool, ask_sudo_password: bool, yes: bool, as_json: bool
) -> None:
    """Remove the agent from the board NAME; with --purge, also everything that it keeps.

    Without --purge, the models, the trusted keys and the users stay, and another `provision` finds them.

    \b
    Examples:
      pipeline device unprovision rpi4 --dry-run
      pipeline device unprovision rpi4 --purge
    """
    from pipeline.device.provision.install import plan_removal, remove
    from pipeline.device.registry import find_board, open_shell

    entry = find_board(name)
    console = Console(stderr=as_json, highlight=False, soft_wrap=True)
    done: tuple[str, ...] = ()
    with open_shell(entry) as shell, _Screen(console) as screen:
        plan = plan_removal(shell, system=not user, purge=purge)
        if plan.steps:
            _show_steps(console, plan.steps)
        else:
            console.print("nothing to remove")
        if plan.steps and not dry_run:
            _confirm(f"Remove it from {name}?", yes=yes or as_json)
            done = remove(shell, plan, screen, _password(entry, ask=ask_sudo_password and plan.system))
    if as_json:
        click.echo(json.dumps({"steps": plan.steps, "done": done}, indent=2))


class _Screen:
    """Shows how it goes: a bar while packages are sent, then a line a step."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._open = ExitStack()
        self._bar: Advance | None = None
        self._began = 0.0

    def __enter__(self) -> _Screen:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the step that is shown."""
        self._open.close()
        self._bar = None

    def say(self, text: str) -> None:
        """See `Watch.say`."""
        self._console.print(f"    {escape(printable(text))}")

    def status(self, text: str) -> None:
        """Show what is looked for, as long as nothing else is shown."""
        self.close()
        if self._console.is_terminal:
            self._open.enter_context(self._console.status(escape(printable(text))))

    def sent(self, done: int, of: int) -> None:
        """See `Watch.sent`."""
        if self._bar is None:
            self._begin(f"send packages ({of / 1e6:.1f} MB)")
            self._began = time.monotonic()
        rate = done / max(time.monotonic() - self._began, 1e-3) / 1e6
        assert self._bar is not None  # noqa: S101 - `_begin` made it
        self._bar(done=done, of=of, note=f"{done / 1e6:.1f} of {of / 1e6:.1f} MB, {rate:.1f} MB/s")

    def step(self, what: str) -> None:
        """See `Watch.step`."""
        self._begin(printable(what))

    def _begin(self, title: str) -> None:
        from pipeline.cli.progress import Terminal

        self.close()
        self._bar = self._open.enter_context(Terminal(self._console).step(title))


def _show_plan(console: Console, plan: Plan) -> None:
    console.print(f"board     {escape(printable(str(plan.facts)))}")
    console.print(f"where     {'the whole system' if plan.system else plan.facts.home}")
    console.print(
        f"agent     {plan.target['version']}" + (f" (there: {plan.current})" if plan.current else "")
    )
    console.print(f"runtimes  {', '.join(plan.selection.runtimes)}")
    for wheel in plan.selection.wheels:
        sent = f"{wheel.size / 1e6:.1f} MB to send" if wheel in plan.send else "there"
        console.print(f"          {wheel.name} {wheel.version}, {sent}")
    for note in plan.notes:
        console.print(f"note      {escape(printable(note))}")
    if plan.makes_key and plan.steps:
        console.print("note      you have no signing key: one is made, and the board trusts it")
    if plan.steps:
        _show_steps(console, plan.steps)
    else:
        console.print("nothing to do: the board is as it should be")


def _show_steps(console: Console, steps: Sequence[str]) -> None:
    console.print("steps")
    for number, step in enumerate(steps, 1):
        console.print(f"  {number:2}. {escape(printable(step))}")


def _confirm(question: str, *, yes: bool) -> None:
    """Ask, where somebody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        from pipeline.errors import InputError

        raise InputError("there is no terminal to ask whether to go on", hint="--yes goes on without asking")
    click.confirm(question, default=True, abort=True)


def _password(entry: SshDevice, *, ask: bool) -> str | None:
    if not ask:
        return None
    return str(click.prompt(f"sudo's password on {entry.name}", hide_input=True, err=True))


def _remember(entry: SshDevice, command: str) -> None:
    """Note how the board's agent is reached from now on."""
    from pipeline.device.registry import write_device

    if entry.agent != command:
        write_device(replace(entry, agent=command))


def _try(console: Console, name: str, report: Report | None) -> None:
    """Ask the agent how it is, over a connection of its own, as every later command does."""
    from pipeline.device.registry import open_device

    with open_device(name) as device:
        status = device.status()
    runtimes = ", ".join(f"{each.package} {each.version}" for each in status.runtimes) or "none"
    console.print(
        f"[green]✓[/] {escape(name)} answers: agent {status.agent_version}, runtimes {escape(runtimes)}"
    )
    if report is not None and report.verifies is False:
        console.print("note      it cannot verify signatures, and takes no bundle until it can")


def _as_json(plan: Plan, report: Report | None) -> dict[str, object]:
    facts = plan.facts
    return {
        "board": {"os": facts.os, "arch": facts.arch, "python": facts.version, "glibc": facts.glibc},
        "version": plan.target["version"],
        "tree": plan.target["tree"],
        "current": plan.current,
        "runtimes": plan.selection.runtimes,
        "packages": {wheel.name: wheel.version for wheel in plan.selection.wheels},
        "send_bytes": plan.send_bytes,
        "steps": plan.steps,
        "notes": plan.notes,
        "agent_command": plan.agent_command,
        "done": None if report is None else report.steps,
        "sent_bytes": 0 if report is None else report.sent_bytes,
    }
