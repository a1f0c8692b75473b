"""Has a board do what a plan says, over links that may break at any point: each try finds what is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, TypeVar

from pipeline.device.link import Json, Link
from pipeline.device.provision.boarding import board as boarding
from pipeline.device.provision.boarding import require_sudo
from pipeline.device.provision.plan import LOOK_S, Plan, ask, folder_of, look_at, trust_document
from pipeline.device.provision.probe import BoardFacts
from pipeline.device.retry import PATIENT, Patience
from pipeline.device.shell import Shell
from pipeline.device.upload import Sent, upload
from pipeline.errors import AgentError, LinkLostError
from pipeline.signing import default_key_file, new_key

T = TypeVar("T")

_STEP_S = 1800.0  # the longest step: to unpack or to try a runtime on a slow board
_LOCKED_S = 900.0  # another one is at work there; perhaps the one whose link broke
_LOCKED_PAUSE_S = 2.0


class Watch(Protocol):
    """Is told how it goes."""

    def say(self, text: str) -> None:
        """Something that is worth a line."""

    def sent(self, done: int, of: int) -> None:
        """So many bytes went, of so many."""

    def step(self, what: str) -> None:
        """The board begins a step."""


@dataclass(frozen=True)
class Report:
    """What was done: the bytes sent, the steps, the runtimes that were tried with their versions."""

    sent_bytes: int
    steps: tuple[str, ...]
    runtimes: dict[str, str] = field(default_factory=dict)
    verifies: bool | None = None


@dataclass(frozen=True)
class RemovalPlan:
    """What is to be removed from a board, in words."""

    facts: BoardFacts
    system: bool
    purge: bool
    steps: tuple[str, ...]


def carry_out(
    shell: Shell, plan: Plan, watch: Watch, password: str | None = None, patience: Patience | None = None
) -> Report:
    """Send what is missing and have the board install it; a link that breaks is opened again.

    Args:
        shell: the way to the board.
        plan: what to do.
        watch: is told how it goes.
        password: for sudo, where that asks for one; it is not kept.
        patience: how often a broken link is opened again; some eight times unless told.

    Raises:
        InputError: sudo refuses; a package is gone meanwhile.
        AgentError: the board could not do a step; what was in use there still is.
        LinkLostError: the link broke for good; the next try goes on where this one ended.
    """
    if plan.system:
        require_sudo(shell, plan.facts, password)
    if plan.makes_key:
        made = new_key(default_key_file())
        watch.say(f"made the signing key {made.public.id} in {made.path}")
        plan = replace(plan, target={**plan.target, "trust": trust_document(None)})
    sent = Sent(watch.sent)

    def install(link: Link) -> Report:
        there = set(link.start("install.look", plan.target).result(LOOK_S)["unpacked"])
        wanted = [wheel for wheel in plan.selection.wheels if folder_of(wheel) not in there]
        upload(link, {wheel.sha256: wheel.path for wheel in wanted}, sent)
        done = link.start("install.apply", plan.target).result(_STEP_S, lambda event: _tell(event, watch))
        return Report(sent.bytes, tuple(done["done"]), done["runtimes"], done["verifies"])

    opened = partial(_open, shell, plan.facts, watch, password, system=plan.system)
    return _patiently(opened, install, watch, patience or PATIENT)


def plan_removal(shell: Shell, *, system: bool, purge: bool) -> RemovalPlan:
    """Ask the board what there is to be removed; nothing is changed.

    Args:
        shell: the way to the board.
        system: the agent of the whole board, or the user's own.
        purge: its state, settings and users, too.
    """
    facts = look_at(shell, system=False)
    found = ask(shell, facts, {"remove": True, "purge": purge}, system=system)
    return RemovalPlan(facts, system, purge, tuple(found["steps"]))


def remove(
    shell: Shell,
    plan: RemovalPlan,
    watch: Watch,
    password: str | None = None,
    patience: Patience | None = None,
) -> tuple[str, ...]:
    """Remove the agent from a board; returns what was done."""
    if plan.system:
        require_sudo(shell, plan.facts, password)

    def take_away(link: Link) -> tuple[str, ...]:
        params = {"purge": plan.purge}
        done = link.start("install.remove", params).result(_STEP_S, lambda event: _tell(event, watch))
        return tuple(done["done"])

    opened = partial(_open, shell, plan.facts, watch, password, system=plan.system)
    return _patiently(opened, take_away, watch, patience or PATIENT)


def _patiently(opened: Callable[[], Link], do: Callable[[Link], T], watch: Watch, patience: Patience) -> T:
    """Do something until the link holds; the board does each step once, however often it is asked.

    An installer that does not even start the first time would not start the next time.
    """
    waits = patience.waits()
    link = opened()
    while True:
        try:
            try:
                return do(link)
            finally:
                link.close()
        except LinkLostError as error:
            link = _again(opened, error, waits, watch)


def _again(opened: Callable[[], Link], error: LinkLostError, waits: Iterator[float], watch: Watch) -> Link:
    """Open the link again, as often as patience has it."""
    for wait in waits:
        watch.say(f"{error.message}; trying again in {wait:.0f} s")
        time.sleep(wait)
        try:
            return opened()
        except LinkLostError as other:
            error = other
    raise error


def _open(shell: Shell, facts: BoardFacts, watch: Watch, password: str | None, *, system: bool) -> Link:
    """Open a link to an installer, when no other one is at work."""
    deadline = time.monotonic() + _LOCKED_S
    told = False
    while True:
        try:
            return Link(boarding(shell, facts, system=system, looks_only=False, password=password))
        except AgentError as error:
            if error.code != "locked" or time.monotonic() > deadline:
                raise
            if not told:
                watch.say(f"{error.message}; waiting for it to end")
                told = True
            time.sleep(_LOCKED_PAUSE_S)


def _tell(event: Json, watch: Watch) -> None:
    if "step" in event:
        watch.step(str(event["step"]))
