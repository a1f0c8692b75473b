"""A bundle's way onto one device, whoever sends it: number → send → stage → check → activate; and the way back.

A deploy walks it once (`workshop.py`), `pipeline push`, `activate` and `rollback` on as many devices as are named.
Each function may be called again after it was cut off anywhere: it goes on from what the device says of itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pipeline.device.client import CheckReport, Device
from pipeline.device.upload import OnProgress
from pipeline.device.values import UpdateState
from pipeline.errors import DeviceError, LinkLostError

if TYPE_CHECKING:
    from pipeline.bundle import Bundle

FARTHEST_AHEAD_MS = 366 * 24 * 3600 * 1000
POLL_S = 1.0
TRIES = 3  # of what a lost link cut off
CONFIRM_MARGIN_S = 10.0  # for the device's own timer to fire
DIGITS = 12  # of a digest, in messages
_BEGUN = "`pipeline activate` ends an activation that was begun, `pipeline rollback` takes it back"
_UNCOMMITTED = {"activating", "activated", "rolling back"}

T = TypeVar("T")
Tell = Callable[[str], None]


def _silent(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Delivered:
    """A bundle on a device: what went over the wire, and how its check ended (`None`: it is active already)."""

    digest: str
    sent_bytes: int
    skipped_files: int
    check: CheckReport | None


@dataclass(frozen=True)
class Activated:
    """The active bundle of a device; `already` says that it was active before."""

    digest: str
    generation: int
    previous: str | None
    already: bool


@dataclass(frozen=True)
class RolledBack:
    """The bundles that were and are current on a device, and the staged one that was let go."""

    was: str | None
    now: str | None
    let_go: str | None


def next_sequence(seen: int) -> int:
    """Return a number greater than every one before it: the time in ms, or one more than the device has seen.

    Raises:
        DeviceError: what the device has seen lies far ahead: signed with one more, the bundle would be the newest
            for ever, on every device that it is played to.
    """
    now = time.time_ns() // 1_000_000
    if seen > now + FARTHEST_AHEAD_MS:
        raise DeviceError(
            f"the device has seen bundle number {seen}, which lies more than a year ahead of this computer's clock",
            hint="set the clock; if it is right, do not trust this device: set it up anew",
        )
    return max(now, seen + 1)


def deliver(
    device: Device,
    bundle: Bundle,
    signatures: Sequence[dict[str, str]] = (),
    *,
    allow_downgrade: bool = False,
    on_progress: OnProgress | None = None,
    tell: Tell = _silent,
) -> Delivered:
    """Send a bundle to a device, stage it there, and have it answer its golden input. What is active stays active.

    Args:
        device: where to.
        bundle: all its files are on this host.
        signatures: of its manifest.
        allow_downgrade: take it though it is older than one that was active there.
        on_progress: is called with the bytes sent and the bytes to send.
        tell: is told each phase.

    Raises:
        DeviceError: the device does not take the bundle, or its answers are not the expected ones.
    """
    update = device.status().update
    if update.current == bundle.digest:
        return Delivered(bundle.digest, 0, len(bundle.files), None)
    if update.state in _UNCOMMITTED:
        raise DeviceError(
            f"the activation of {short(update.current)} is neither committed nor taken back", hint=_BEGUN
        )
    tell("sending")
    pushed = device.push(bundle.files, on_progress)

    def stage_and_check() -> CheckReport:
        tell("staging")
        device.stage(bundle.digest, signatures, allow_downgrade=allow_downgrade)
        return _check(device, bundle.digest, tell)

    report = _outliving_the_link(stage_and_check)
    return Delivered(bundle.digest, pushed.sent_bytes, pushed.skipped_files, report)


def activate(
    device: Device,
    digest: str,
    *,
    confirm_within_s: float | None = None,
    tell: Tell = _silent,
    pause: Callable[[float], None] = time.sleep,
) -> Activated:
    """Make a staged bundle the active one for good, and make sure that the device says so itself.

    A bundle whose check did not pass yet is checked first; one that is active already stays it. An activation that
    somebody began and did not end is ended.

    Args:
        device: where.
        digest: of the bundle.
        confirm_within_s: the application on the device has so many seconds to confirm that it works with the model;
            else the device goes back by itself, which is an error here. Without it, the model is committed at once.
        tell: is told each phase.
        pause: waits for so many seconds.

    Raises:
        DeviceError: the model is not active; the device has, or goes back to, what it had.
    """
    return _outliving_the_link(lambda: _activate(device, digest, confirm_within_s, tell, pause))


def roll_back(device: Device, *, pending_only: bool = False) -> RolledBack:
    """Have a device go back to the model that it had before the current one.

    An activation that was not committed is undone; a committed one is taken back, and what is only staged is let go
    with it. What was current becomes the previous one, so that a second call would return to it.

    Args:
        device: where.
        pending_only: undo only what is not committed; a committed model stays.

    Raises:
        DeviceError: there is no model before, or it cannot be had back; the current one stays active.
    """
    before = device.status().update
    pending = before.state in _UNCOMMITTED
    if not pending and not pending_only:
        if before.previous is None:
            raise DeviceError(
                "there is no model before the current one to go back to",
                hint="--pending lets go of what is staged and leaves the current model",
            )
        if before.previous in before.bad:
            why = before.bad[before.previous]
            raise DeviceError(f"the model before was marked bad: {why}", hint="push another one")
    try:
        now = _outliving_the_link(lambda: _go_back(device, before, pending_only=pending_only))
    except LinkLostError as error:
        error.hint = "`pipeline status` tells whether it went back; with --from, trying again is safe"
        raise
    return RolledBack(before.current, now, before.staged)


def short(digest: str | None) -> str:
    """Return the beginning of a digest, for people."""
    return "no model" if digest is None else digest[:DIGITS]


def _outliving_the_link(work: Callable[[], T]) -> T:
    """Do what goes on from what the device says of itself, again if the link was lost meanwhile."""
    for _ in range(TRIES - 1):
        with suppress(LinkLostError):
            return work()
    return work()


def _activate(
    device: Device, digest: str, confirm_within_s: float | None, tell: Tell, pause: Callable[[float], None]
) -> Activated:
    update = device.status().update
    if update.current == digest and update.generation is not None and update.state not in _UNCOMMITTED:
        return Activated(digest, update.generation, update.previous, already=True)
    if (update.current, update.state) != (digest, "activated"):
        if update.staged == digest and update.state != "checked":
            _check(device, digest, tell)
        tell("activating")
        device.activate(digest, confirm_within_s=confirm_within_s)
    try:
        if confirm_within_s is None:
            device.commit(digest)
        else:
            _await_confirmation(device, digest, confirm_within_s, tell, pause)
        tell("looking")
        return _healthy(device, digest)
    except LinkLostError as error:
        error.hint = _BEGUN
        raise


def _go_back(device: Device, before: UpdateState, *, pending_only: bool) -> str | None:
    """Go back from what was `before`; an earlier try may have got through though its answer was lost."""
    now = device.status().update
    if now.current != before.current:
        return now.current
    if before.state in _UNCOMMITTED or pending_only:
        return device.rollback()
    if now.staged:
        device.rollback()
    current = device.rollback(to_previous=True)
    if current != before.previous:
        raise DeviceError(
            f"the device still has {short(current)} active", hint="`pipeline status` tells more"
        )
    return current


def _check(device: Device, digest: str, tell: Tell) -> CheckReport:
    tell("checking")
    report = device.check(digest)
    if not report.ok:
        raise DeviceError(
            f"the device refused the staged model: {report.why}",
            hint="the active model was left as it is; measure the runtime's version with `pipeline device status`",
        )
    return report


def _await_confirmation(
    device: Device, digest: str, within_s: float, tell: Tell, pause: Callable[[float], None]
) -> None:
    """Wait until the application confirmed; the device itself goes back when the time is over."""
    tell("waiting for the application")
    waited_s = 0.0
    while True:
        update = device.status().update
        if update.state not in _UNCOMMITTED:  # else it may be on its way back this moment
            break
        if waited_s > within_s + CONFIRM_MARGIN_S:
            raise DeviceError(f"neither confirmed nor taken back after {waited_s:.0f} s")
        pause(POLL_S)
        waited_s += POLL_S
    if update.current != digest:
        raise DeviceError(
            f"the device went back to {short(update.current)}: {update.last or 'it does not say why'}",
            hint="does the application load the new model and call bundle.confirm? see docs/agent.md",
        )


def _healthy(device: Device, digest: str) -> Activated:
    """Require that the device, asked anew, runs this bundle for good."""
    update: UpdateState = device.status().update
    if update.current != digest or update.generation is None or update.state in _UNCOMMITTED or update.fault:
        reason = update.fault or update.last or f"its update is {update.state!r}"
        raise DeviceError(f"activated, but the device says that {short(update.current)} is current: {reason}")
    return Activated(digest, update.generation, update.previous, already=False)
