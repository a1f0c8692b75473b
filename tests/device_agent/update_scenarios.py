"""What an update may be doing when something fails: every act, from every state it can be asked in.

A board begins with "first" and then "old" committed and "new" uploaded; current and previous are told by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from update_board import (
    AFTER,
    BEFORE,
    BUNDLES,
    FIRST,
    NEW,
    OLD,
    OLDER,
    RIVAL,
    Board,
    Bundle,
    Pair,
    crashes,
    reopen,
    sha256,
)

from device_agent.serve.trees import STARTS

CHUNK = 700
BIG = bytes(range(256)) * 8
Step = Callable[[Board], Any]


def nothing(_: Board) -> None:
    """Leave the board as it is."""


@dataclass(frozen=True)
class Scenario:
    """One act that something may go wrong in.

    Args:
        name: for people.
        act: what is cut short.
        before: what leads to the state in which it is asked for.
        allowed: what may be current and previous once a fresh process opened the folder.
        after: what they are if the act came to its end; `None`: one of those allowed.
        promise: what must hold in a fresh process if the act came to its end.
        kind: of the bundles.
        opens: the act itself opens the folder; else a process has it open already.
        empty: the board begins with nothing on it.
        spoiled: the current bundle is spoiled to begin with, and only an audit mends that.
    """

    name: str
    act: Step
    before: Step = nothing
    allowed: tuple[Pair, ...] = (BEFORE,)
    after: Pair | None = None
    promise: Callable[[Board], bool] = field(default=lambda _: True)
    kind: str = "model"
    opens: bool = False
    empty: bool = False
    spoiled: bool = False

    def reopened(self) -> Scenario:
        """Return the scenario of an opening that finds this act cut short."""
        return Scenario(
            f"open after: {self.name}",
            reopen,
            allowed=self.allowed,
            kind=self.kind,
            opens=True,
            empty=self.empty,
            spoiled=self.spoiled,
        )


def _activated(board: Board) -> None:
    board.activate(NEW)


def _waiting(board: Board) -> None:
    board.activate(NEW, confirm=True)


def _checked(board: Board) -> None:
    board.stage(NEW)
    board.check(NEW)


def _committed(board: Board) -> None:
    board.deploy(NEW)


def _is(state: str) -> Callable[[Board], bool]:
    return lambda board: board.state() == state


def _is_bad(bundle: Bundle) -> Callable[[Board], bool]:
    return lambda board: bundle.digest in board.updater.status().bad


STAGING = [
    Scenario("stage", lambda b: b.stage(NEW), promise=_is("staged")),
    Scenario("stage it again", lambda b: b.stage(NEW), lambda b: b.stage(NEW), promise=_is("staged")),
    Scenario("stage over another", lambda b: b.stage(NEW), lambda b: b.stage(RIVAL), promise=_is("staged")),
    Scenario("stage the current one", lambda b: b.stage(OLD), promise=_is("staged")),
    Scenario("begin a check", lambda b: b.updater.begin_check(NEW.digest), lambda b: b.stage(NEW)),
    Scenario(
        "end a check",
        lambda b: b.updater.end_check(NEW.digest, ok=True),
        lambda b: crashes(b, 1),
        promise=_is("checked"),
    ),
    Scenario(
        "end a check badly",
        lambda b: b.updater.end_check(NEW.digest, ok=False),
        lambda b: crashes(b, 1),
        promise=_is("staged"),
    ),
    Scenario("a checker died", lambda b: b.updater.fail_check(NEW.digest, "died"), lambda b: crashes(b, 1)),
    Scenario(
        "a checker died once too often",
        lambda b: b.updater.fail_check(NEW.digest, "died"),
        crashes,
        promise=_is_bad(NEW),
    ),
]

ACTIVATION = [
    Scenario("activate", lambda b: b.updater.activate(NEW.digest), _checked),
    Scenario("activate until confirmed", lambda b: b.updater.activate(NEW.digest, confirm=True), _checked),
    Scenario(
        "activate the current one again",
        lambda b: b.updater.activate(OLD.digest),
        lambda b: (b.stage(OLD), b.check(OLD)),
    ),
    Scenario("commit", lambda b: b.updater.commit(NEW.digest), _activated, (BEFORE, AFTER), AFTER),
    Scenario(
        "confirm", lambda b: b.updater.commit(NEW.digest, confirmed=True), _waiting, (BEFORE, AFTER), AFTER
    ),
    Scenario("no confirmation came", lambda b: b.updater.expire(3, 1.0), _waiting),
    Scenario("roll back", lambda b: b.updater.roll_back(), _activated),
    Scenario("let a staged one go", lambda b: b.updater.roll_back(), _checked, promise=_is("idle")),
    Scenario(
        "go back to the previous",
        lambda b: b.updater.roll_back(to_previous=True),
        _committed,
        (AFTER, ("old", "new")),
        ("old", "new"),
    ),
    Scenario("deploy", lambda b: b.deploy(NEW), allowed=(BEFORE, AFTER), after=AFTER),
    Scenario(
        "deploy an older one",
        lambda b: b.deploy(OLDER, allow_downgrade=True),
        allowed=(BEFORE, ("older", "old")),
        after=("older", "old"),
    ),
]

FIRST_DEPLOY = Scenario(
    "first deploy",
    lambda b: reopen(b).deploy(NEW),
    allowed=((None, None), ("new", None)),
    after=("new", None),
    opens=True,
    empty=True,
)

JUDGEMENT = [
    Scenario(
        "mark the current one bad",
        lambda b: b.updater.mark_bad(OLD.digest, "why"),
        allowed=(BEFORE, ("first", None)),
        after=("first", None),
        promise=_is_bad(OLD),
    ),
    Scenario(
        "mark the activated one bad",
        lambda b: b.updater.mark_bad(NEW.digest, "why"),
        _activated,
        promise=_is_bad(NEW),
    ),
    Scenario(
        "mark the staged one bad",
        lambda b: b.updater.mark_bad(NEW.digest, "why"),
        _checked,
        promise=_is_bad(NEW),
    ),
    Scenario(
        "mark the current one bad that is staged again",
        lambda b: b.updater.mark_bad(OLD.digest, "why"),
        lambda b: (b.stage(OLD), b.check(OLD)),
        (BEFORE, ("first", None)),
        ("first", None),
        promise=_is_bad(OLD),
    ),
    Scenario(
        "mark the current one bad that is activated again",
        lambda b: b.updater.mark_bad(OLD.digest, "why"),
        lambda b: b.activate(OLD),
        (BEFORE, ("first", None)),
        ("first", None),
        promise=_is_bad(OLD),
    ),
    Scenario(
        "roll back to one that was marked bad meanwhile",
        lambda b: b.updater.roll_back(),
        lambda b: (b.activate(NEW), b.updater.mark_bad(OLD.digest, "why")),
        (("first", None),),
    ),
    Scenario(
        "mark the previous one bad", lambda b: b.updater.mark_bad(FIRST.digest, "why"), promise=_is_bad(FIRST)
    ),
    Scenario(
        "forgive",
        lambda b: b.updater.forgive(NEW.digest),
        lambda b: b.updater.mark_bad(NEW.digest, "why"),
        promise=lambda b: not _is_bad(NEW)(b),
    ),
    Scenario(
        "audit a spoiled bundle",
        lambda b: b.updater.audit(),
        lambda b: b.spoil(OLD, "model.onnx"),
        (BEFORE, ("first", None)),
        ("first", None),
        spoiled=True,
    ),
    Scenario(
        "audit a spoiled manifest",
        lambda b: b.updater.audit(),
        lambda b: b.spoil(OLD, "manifest.json"),
        (BEFORE, ("first", None)),
        ("first", None),
        spoiled=True,
    ),
]


def _has(data: bytes) -> Callable[[Board], bool]:
    return lambda board: board.store.has(sha256(data))


def _begun(board: Board) -> None:
    board.store.put(sha256(BIG), len(BIG), 0, BIG[:CHUNK])


FILES = [
    Scenario("upload in chunks", lambda b: b.put(BIG, chunk=CHUNK), promise=_has(BIG)),
    Scenario("go on with an upload", lambda b: b.put(BIG, chunk=CHUNK), _begun, promise=_has(BIG)),
    Scenario(
        "take over a measured file",
        lambda b: b.store.has(sha256(BIG)),
        lambda b: b.put(BIG, "measure"),
        promise=_has(BIG),
    ),
    Scenario("collect", lambda b: b.store.collect([]), _begun),
    Scenario("collect beside a staged one", lambda b: b.store.collect([]), _checked, promise=_is("checked")),
]


def _agents(name: str) -> Bundle:
    return BUNDLES["agent"][name]


def _agent_activated(board: Board) -> None:
    board.activate(_agents("new"))


def _started_too_often(board: Board) -> None:
    _agent_activated(board)
    for _ in range(STARTS):
        reopen(board)


AGENT = [
    Scenario("stage an agent", lambda b: b.stage(_agents("new")), kind="agent", promise=_is("staged")),
    Scenario(
        "deploy an agent", lambda b: b.deploy(_agents("new")), nothing, (BEFORE, AFTER), AFTER, kind="agent"
    ),
    Scenario("start a new agent", reopen, _agent_activated, (BEFORE, AFTER), AFTER, kind="agent", opens=True),
    Scenario(
        "start a new agent once too often", reopen, _started_too_often, kind="agent", after=BEFORE, opens=True
    ),
]

ALL = {each.name: each for each in (*STAGING, *ACTIVATION, FIRST_DEPLOY, *JUDGEMENT, *FILES, *AGENT)}
