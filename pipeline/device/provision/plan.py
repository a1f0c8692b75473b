"""What is left to be done on a board to get the agent there: asked of the board itself, which changes nothing yet."""

from __future__ import annotations

import hashlib
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.device.link import Json, Link
from pipeline.device.provision.boarding import board as boarding
from pipeline.device.provision.boarding import package
from pipeline.device.provision.probe import BoardFacts, probe
from pipeline.device.provision.wheels import Notice, Selection, Wheel, select
from pipeline.device.shell import Shell
from pipeline.errors import InputError, TransportError
from pipeline.signing import default_key_file, load_key, read_trusted

LOOK_S = 120.0
_SYSTEM_PLACE = "/opt/device-agent"
_SYSTEM_COMMAND = "/usr/local/bin/device-agent"
_USER_COMMAND = ".local/share/device-agent/bin/device-agent"
_HIDDEN_FROM_SERVICES = ("/home/", "/root/", "/run/user/")
_SPARE_BYTES = 32 * 1024 * 1024
_CLOCK_OFF_S = 24 * 3600.0


@dataclass(frozen=True)
class Wish:
    """What the user asked for.

    Attributes:
        system: for the whole board, or into the home folder of the user who logs in there.
        runtimes: those that the board must get; none: all that there are for it.
        wheels: a folder to take wheels from, instead of the package index.
        trust: a file of trusted keys that replaces the board's.
    """

    system: bool = True
    runtimes: tuple[str, ...] = ()
    wheels: Path | None = None
    trust: Path | None = None


@dataclass(frozen=True)
class Plan:
    """What is to be installed, and the steps that are left.

    Attributes:
        facts: the board.
        selection: the packages for it.
        system: see `Wish`.
        target: what the board's installer is told.
        current: the version in use there, `None` if there is none.
        send: packages that are still to be sent.
        steps: what the board will do, in words; none if it is as it should be.
        makes_key: the host has no signing key yet, and one is made for the board to trust.
        notes: what the user should know.
    """

    facts: BoardFacts
    selection: Selection
    system: bool
    target: Json
    current: str | None
    send: tuple[Wheel, ...]
    steps: tuple[str, ...]
    makes_key: bool
    notes: tuple[str, ...]

    @property
    def send_bytes(self) -> int:
        """How much is to be sent at most."""
        return sum(wheel.size for wheel in self.send)

    @property
    def agent_command(self) -> str:
        """The command on the board that connects to the agent."""
        return agent_command(self.facts, system=self.system)


def make_plan(shell: Shell, wish: Wish, notice: Notice = lambda _: None) -> Plan:
    """Look at the board, find its packages, and ask what is left to be done; nothing is changed there.

    Raises:
        InputError: the board cannot have an agent, and why; its packages are not found.
        TransportError: the link broke.
    """
    facts = look_at(shell, system=wish.system)
    selection = select(facts, wish.runtimes, wish.wheels, notice)
    target = _target(facts, selection, wish)
    found = ask(shell, facts, target, system=wish.system)
    unpacked, trusted = set(found["unpacked"]), found["trusted"]
    send = tuple(wheel for wheel in selection.wheels if folder_of(wheel) not in unpacked)
    _require_room(shell.name, facts, send)
    return Plan(
        facts=facts,
        selection=selection,
        system=wish.system,
        target=target,
        current=found["current"],
        send=send,
        steps=tuple(found["steps"]),
        makes_key=wish.system and trusted is None and wish.trust is None and not default_key_file().exists(),
        notes=(*selection.notes, *_notes(facts, wish, trusted)),
    )


def look_at(shell: Shell, *, system: bool) -> BoardFacts:
    """Return what a board is.

    Raises:
        InputError: the agent cannot be installed there in this way, and why.
    """
    facts = probe(shell, _SYSTEM_PLACE if system else "")
    if system and not facts.systemd:
        raise InputError(
            f"{shell.name}: the board ({facts}) has no systemd to run a service",
            hint="--user installs an agent that each connection starts; it needs no service",
        )
    if system and facts.python.startswith(_HIDDEN_FROM_SERVICES):
        raise InputError(
            f"{shell.name}: the board's python3 is {facts.python}, which a service may not see",
            hint="install python3 for the whole system, or use --user",
        )
    return facts


def ask(shell: Shell, facts: BoardFacts, params: Json, *, system: bool) -> Json:
    """Have the board say what is there and which steps are left.

    Raises:
        TransportError: the link broke, or the answer is not understood.
    """
    link = Link(boarding(shell, facts, system=system, looks_only=True))
    try:
        found = link.start("install.look", params).result(LOOK_S)
    finally:
        link.close()
    lists = [found.get("unpacked"), found.get("steps"), found.get("trusted") or []]
    if not all(isinstance(each, list) and all(isinstance(text, str) for text in each) for each in lists):
        raise TransportError(f"{shell.name}: the installer's answer is not understood")
    return found


def folder_of(wheel: Wheel) -> str:
    """Return the name that an unpacked wheel has on the board."""
    return f"{wheel.name}-{wheel.version}-{wheel.sha256[:12]}"


def trust_document(path: Path | None) -> Json:
    """Return a file of trusted keys as an object; `None`: the list of this host's own key, if it has one.

    Raises:
        InputError: it is no such file, or lists nobody.
    """
    if path is None:
        own = default_key_file()
        keys = [load_key(own).public] if own.exists() else []
        revoked: list[str] = []
    else:
        keys, revoked = read_trusted(path)
        if not keys:
            raise InputError(f"{path} lists no key", hint="pipeline key trust FILE --add KEY.json")
    return {"format": 1, "keys": [asdict(key) for key in keys], "revoked": sorted(set(revoked))}


def agent_command(facts: BoardFacts, *, system: bool) -> str:
    """Return the command on the board that connects to the agent; absolute, for some boards' PATH is short."""
    if system:
        return f"{_SYSTEM_COMMAND} stdio"
    return f"{shlex.quote(f'{facts.home}/{_USER_COMMAND}')} stdio --standalone"


def _target(facts: BoardFacts, selection: Selection, wish: Wish) -> Json:
    agent = package()
    contents = hashlib.sha256(agent.digest.encode())
    for wheel in selection.wheels:
        contents.update(wheel.sha256.encode())
    wheels = [
        {"name": w.name, "version": w.version, "sha256": w.sha256, "size": w.size} for w in selection.wheels
    ]
    return {
        "tree": f"{agent.version}-{contents.hexdigest()[:12]}",
        "version": agent.version,
        "wheels": wheels,
        "runtimes": list(selection.runtimes),
        "verifies": any(wheel.name == "cryptography" for wheel in selection.wheels),
        "operator": None if facts.is_root or not wish.system else facts.user,
        "trust": trust_document(wish.trust) if wish.system else None,
        "replace_trust": wish.trust is not None,
    }


def _require_room(name: str, facts: BoardFacts, send: Sequence[Wheel]) -> None:
    wanted = sum(wheel.size + wheel.unpacked for wheel in send) + _SPARE_BYTES
    if send and wanted > facts.free_bytes:
        raise InputError(
            f"{name}: about {wanted // 1_000_000} MB are needed, {facts.free_bytes // 1_000_000} MB are free there",
            hint="free some space, or choose one runtime (--runtime)",
        )


def _notes(facts: BoardFacts, wish: Wish, trusted: Any) -> list[str]:
    notes = []
    if abs(time.time() - facts.clock) > _CLOCK_OFF_S:
        clock = time.strftime("%Y-%m-%d", time.gmtime(facts.clock))
        notes.append(f"the board's clock says {clock}; the times in its log will be wrong")
    own = default_key_file()
    if wish.system and wish.trust is None and trusted is not None:
        key = load_key(own).public.id if own.exists() else None
        if key not in trusted:
            notes.append(
                "the board keeps its list of trusted keys, and yours is not on it: what you sign, it refuses "
                "(--trust FILE replaces the list)"
            )
    return notes
