"""The same work on several devices at once: a device that fails stops no other, unless it is a canary.

    outcomes = run(["rpi4", "zero2w"], lambda name, device: device.status())

Every device has a thread and a connection of its own. Nothing is printed here, and nothing is known of the work.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipeline.device.client import DeviceClient
from pipeline.device.registry import open_device
from pipeline.errors import DeviceError, PipelineError, TransportError

AT_ONCE = 32  # beyond this, the handshakes of one process only slow each other down
STOP_S = 5.0  # how long an interrupt waits for connections to end in good order

_LOOK = "`pipeline status` tells how it is now"

T = TypeVar("T")


class NotTriedError(DeviceError):
    """Nothing was done on this device, since a canary failed or the command was stopped before."""


class StoppedError(DeviceError):
    """The work on this device was cut off by the user; how far it had come is not known."""


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What came of the work on one device: its value, or the error that ended it."""

    device: str
    value: T | None = None
    error: PipelineError | None = None
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Tell whether the work was done."""
        return self.error is None

    @property
    def tried(self) -> bool:
        """Tell whether anything was done on the device at all."""
        return not isinstance(self.error, NotTriedError)


class FleetStopped(KeyboardInterrupt):
    """The user interrupted the work; `outcomes` says, in the order of the devices, what was reached."""

    def __init__(self, outcomes: tuple[Outcome[Any], ...]) -> None:
        super().__init__()
        self.outcomes = outcomes


Work = Callable[[str, DeviceClient], T]
OnOutcome = Callable[[Outcome[T]], None]


def run(
    names: Sequence[str],
    work: Work[T],
    *,
    canary: int = 0,
    deadline_s: float | None = None,
    at_once: int = AT_ONCE,
    on_outcome: OnOutcome[T] | None = None,
    connect: Callable[[str], DeviceClient] | None = None,
) -> tuple[Outcome[T], ...]:
    """Do `work(name, device)` on every device; return the outcomes in the order of the names.

    Args:
        names: of devices; a name that comes twice counts once.
        work: is called on a thread of its own with a connection that is closed afterwards. A `PipelineError` from
            it, or from connecting, is that device's outcome; any other exception is a bug, and raised here.
        canary: so many devices go first. If one of them fails, the rest is not tried.
        deadline_s: how long one device may take, connecting included; then it counts as failed.
        at_once: most devices that are worked on at the same time.
        on_outcome: is called on this thread for each device as soon as its outcome is known.
        connect: opens a device by name; by default as the registry does.

    Raises:
        FleetStopped: the user interrupted (Ctrl-C); all connections were closed, which cancels what was asked.
    """
    order = tuple(dict.fromkeys(names))
    known: dict[str, Outcome[T]] = {}

    def note(outcome: Outcome[T]) -> None:
        known[outcome.device] = outcome
        if on_outcome is not None:
            on_outcome(outcome)

    try:
        for batch in (order[:canary], order[canary:]):
            if failed := [outcome.device for outcome in known.values() if not outcome.ok]:
                why = f"not tried: the canary {failed[0]!r} failed"
                for name in batch:
                    note(Outcome(name, error=NotTriedError(why)))
            else:
                _Batch(batch, work, deadline_s, at_once, connect or open_device).run(note)
    except KeyboardInterrupt:
        not_tried = NotTriedError("not tried: the command was stopped before")
        raise FleetStopped(
            tuple(known.get(name) or Outcome(name, error=not_tried) for name in order)
        ) from None
    return tuple(known[name] for name in order)


class _Batch(Generic[T]):
    """Devices that are worked on together."""

    def __init__(
        self,
        names: Sequence[str],
        work: Work[T],
        deadline_s: float | None,
        at_once: int,
        connect: Callable[[str], DeviceClient],
    ) -> None:
        self._names = names
        self._work = work
        self._deadline_s = deadline_s
        self._connect = connect
        self._gate = threading.Semaphore(at_once)
        self._found: queue.SimpleQueue[Outcome[T] | BaseException] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._began_s: dict[str, float] = {}  # of those that are through the gate and not done
        self._devices: dict[str, DeviceClient] = {}
        self._given_up: set[str] = set()

    def run(self, note: OnOutcome[T]) -> None:
        """Work on all devices and `note` each outcome.

        Raises:
            KeyboardInterrupt: after all connections were closed and what had been reached was noted.
        """
        waiting = set(self._names)

        def settle(outcome: Outcome[T]) -> None:
            if outcome.device in waiting:  # else it was given up before
                waiting.remove(outcome.device)
                note(outcome)

        for name in self._names:
            threading.Thread(target=self._serve, args=(name,), name=f"device {name}", daemon=True).start()
        try:
            while waiting:
                for outcome in self._next():
                    settle(outcome)
        except BaseException:
            for outcome in self._stop(waiting):
                settle(outcome)
            raise

    # --- on the caller's thread -------------------------------------------------------------------------------

    def _next(self) -> list[Outcome[T]]:
        """Wait for one outcome, or for the next deadline."""
        try:
            return [self._checked(self._found.get(timeout=self._patience_s()))]
        except queue.Empty:
            return [self._overdue(name) for name in self._late()]

    def _checked(self, found: Outcome[T] | BaseException) -> Outcome[T]:
        if isinstance(found, BaseException):
            raise found
        return found

    def _patience_s(self) -> float | None:
        if self._deadline_s is None:
            return None
        with self._turn:
            first_s = min(self._began_s.values(), default=time.monotonic())
        return max(0.01, first_s + self._deadline_s - time.monotonic())

    def _late(self) -> list[str]:
        if self._deadline_s is None:
            return []
        limit_s = time.monotonic() - self._deadline_s
        with self._turn:
            return [name for name, began_s in self._began_s.items() if began_s <= limit_s]

    def _overdue(self, name: str) -> Outcome[T]:
        """Give a device up: its place goes to another one, its connection is closed by a thread nobody waits for."""
        self._give_up([name])
        self._leave(name)
        error = TransportError(
            f"device {name!r}: no answer within {self._deadline_s:g} s",
            hint="is it on, and is the network up?",
        )
        return Outcome(name, error=error, seconds=self._deadline_s or 0.0)

    def _stop(self, waiting: set[str]) -> list[Outcome[T]]:
        """Close all connections, wait a little for the work on them to end, and say what came of it."""
        with self._turn:
            begun = set(self._began_s)
        self._give_up(self._names)
        ended: list[Outcome[T]] = []
        until_s = time.monotonic() + STOP_S
        left = waiting & begun
        while left and (rest_s := until_s - time.monotonic()) > 0:
            try:
                found = self._found.get(timeout=rest_s)
            except queue.Empty:
                break
            if isinstance(found, Outcome):
                left.discard(found.device)
                ended.append(found)
        stopped = StoppedError("stopped while it was worked on", hint=_LOOK)
        return [*ended, *(Outcome(name, error=stopped) for name in self._names if name in left)]

    def _give_up(self, names: Sequence[str]) -> None:
        with self._turn:
            self._given_up.update(names)
            devices = [self._devices[name] for name in names if name in self._devices]
        for device in devices:
            threading.Thread(target=_close, args=(device,), daemon=True).start()

    # --- on the devices' threads ------------------------------------------------------------------------------

    def _serve(self, name: str) -> None:
        self._gate.acquire()
        start_s = time.monotonic()
        with self._turn:
            self._began_s[name] = start_s
        found: Outcome[T] | BaseException
        try:
            value = self._with_device(name)
            found = Outcome(name, value, seconds=time.monotonic() - start_s)
        except PipelineError as error:
            found = Outcome(name, error=self._reason(name, error), seconds=time.monotonic() - start_s)
        except OSError as error:
            reason = DeviceError(f"device {name!r}: {error.strerror or error}")
            found = Outcome(name, error=reason, seconds=time.monotonic() - start_s)
        except BaseException as bug:  # noqa: BLE001 - it is raised where somebody sees it
            found = bug
        self._leave(name)
        self._found.put(found)

    def _with_device(self, name: str) -> T:
        if name in self._given_up:
            raise NotTriedError("not tried: the command was stopped before")
        device = self._connect(name)
        try:
            with self._turn:
                self._devices[name] = device
                if name in self._given_up:
                    raise StoppedError("stopped while it was connected to")
            return self._work(name, device)
        finally:
            _close(device)

    def _reason(self, name: str, error: PipelineError) -> PipelineError:
        """Return the error as it is, or that the user stopped the work if its connection was closed for that."""
        cut_off = isinstance(error, TransportError) or getattr(error, "code", "") == "cancelled"
        if name in self._given_up and cut_off:
            return StoppedError(
                "stopped while it was worked on", hint="`pipeline status` tells how it is now"
            )
        return error

    def _leave(self, name: str) -> None:
        """Let the next device through the gate, once for each that went in."""
        with self._turn:
            inside = self._began_s.pop(name, None) is not None
        if inside:
            self._gate.release()


def _close(device: DeviceClient) -> None:
    """End a connection, which two threads may do at once when it is given up; what fails then helps nobody."""
    with suppress(Exception):
        device.close()
