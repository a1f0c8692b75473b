"""What a device can be asked, as typed methods; every one has a deadline.

Files are named by their content on a device: measuring a file pushes it first if the device lacks it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.device.link import Json, Link
from pipeline.device.retry import ONCE, Notice, Patience
from pipeline.device.transport import Transport
from pipeline.device.upload import OnProgress, Purpose, Sent, digests, upload
from pipeline.device.values import BoardStatus, CheckReport, CollectReport, PushReport
from pipeline.errors import AgentError, LinkLostError, TransportError
from pipeline.files import sha256
from pipeline.measurement import LayerTiming, Measurement, MeasuringProtocol

__all__ = ["BoardStatus", "CheckReport", "CollectReport", "Device", "DeviceClient", "PushReport"]

T = TypeVar("T")
OnEvent = Callable[[dict[str, object]], None]

QUICK_S = 60.0  # requests that only read or rename files
CHECK_S = 660.0  # the agent ends the worker of a check after 600 s
WORKER_MARGIN_S = 60.0  # starting workers and collecting what they said


class Device(Protocol):
    """A device that takes files, measures them, and switches from bundle to bundle: see `DeviceClient`."""

    def status(self) -> BoardStatus:
        """Return what the device is and how it is."""

    def push(self, paths: Sequence[Path], on_progress: OnProgress | None = None) -> PushReport:
        """Send what the device lacks of these files."""

    def measure(
        self,
        path: Path,
        *,
        runtime: str,
        threads: int,
        protocol: MeasuringProtocol,
        on_event: OnEvent | None = None,
    ) -> Measurement:
        """Measure one model."""

    def measure_layers(
        self,
        paths: Sequence[Path],
        *,
        runtime: str,
        threads: int,
        protocol: MeasuringProtocol,
        on_event: OnEvent | None = None,
    ) -> tuple[LayerTiming, ...]:
        """Time many small models in one worker."""

    def stage(self, digest: str, signatures: Sequence[Json] = (), *, allow_downgrade: bool = False) -> None:
        """Put a pushed bundle together on the device."""

    def check(self, digest: str, on_event: OnEvent | None = None) -> CheckReport:
        """Have the staged bundle answer its golden input."""

    def activate(self, digest: str, *, confirm_within_s: float | None = None) -> int:
        """Switch to a staged and checked bundle; return the new generation."""

    def commit(self, digest: str) -> int:
        """Make an activation final; return its generation."""

    def confirm(self, digest: str) -> int:
        """Say, as the application, that the activated model works; return its generation."""

    def rollback(self, *, to_previous: bool = False) -> str | None:
        """Undo an activation that was not committed; return the digest of the bundle that is current then."""

    def mark_bad(self, digest: str, why: str) -> str | None:
        """Never activate this bundle again; return the digest of the bundle that is current then."""

    def lease(self, *, hold_s: float, wait_s: float) -> AbstractContextManager[None]:
        """Keep the turn to measure over several measurements."""

    def collect(self, keep: Iterable[str] = ()) -> CollectReport:
        """Remove the files that nothing refers to."""


class DeviceClient:
    """A `Device` at the other end of a transport; also a context manager that closes it.

    Every method raises `AgentError` if the agent answers with an error (its `code` says which), and
    `TransportError` if the link breaks or stays silent beyond the method's deadline. With patience, a broken link is
    opened again for the next request, and an upload goes on by itself.
    """

    def __init__(self, transport: Transport, patience: Patience = ONCE, notice: Notice | None = None) -> None:
        self._transport = transport
        self._patience = patience
        self._notice = notice or (lambda _: None)
        self._closed = False
        self._open = Link(transport)

    def __enter__(self) -> DeviceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the link; a local agent ends with it, and a request under way is cancelled."""
        self._closed = True
        self._open.close()

    @property
    def _link(self) -> Link:
        """The link, opened again if it broke and there is patience for it."""
        if self._open.is_lost and self._patience.tries > 1 and not self._closed:
            self._open.close()
            self._open = self._again()
        return self._open

    def _again(self) -> Link:
        try:
            return Link(self._transport)
        except AgentError as error:
            if error.code != "no_agent":
                raise
            # a board that has just booted: its SSH server is up, its agent not yet
            raise LinkLostError(error.message, hint=error.hint) from error

    @property
    def agent_version(self) -> str:
        """The version that the agent stated in its hello."""
        return self._open.agent_version

    def status(self) -> BoardStatus:
        """Return what the device is and how it is; changes nothing there."""
        try:
            return self._ask(BoardStatus, "status", {}, QUICK_S)
        except LinkLostError:
            if self._patience.tries == 1 or self._closed:
                raise
            return self._ask(BoardStatus, "status", {}, QUICK_S)  # the link may have been dead for long

    def push(self, paths: Sequence[Path], on_progress: OnProgress | None = None) -> PushReport:
        """Send what the device lacks of these files; an upload that broke off goes on where it stopped.

        Args:
            paths: files to send; the same content is sent once.
            on_progress: is called with the bytes sent and the bytes to send.

        Raises:
            InputError: a file cannot be read.
        """
        return self._upload(tuple(paths), on_progress, "bundle")

    def measure(
        self,
        path: Path,
        *,
        runtime: str,
        threads: int,
        protocol: MeasuringProtocol,
        on_event: OnEvent | None = None,
    ) -> Measurement:
        """Push a model if the device lacks it, and measure it there in a fresh process.

        Args:
            path: the converted model on this host.
            runtime: "onnxruntime" or "tflite".
            threads: threads that the runtime may use, each pinned to a core.
            protocol: how to measure.
            on_event: is called with {"phase": "sending|warmup|measure|cooldown", "done": n, "of": m}.
        """
        self._upload((path,), _sending(on_event), "measure")
        params = {"file": sha256(path), **_how(runtime, threads, protocol)}
        silence_s = protocol.timeout_s + WORKER_MARGIN_S
        return self._ask(Measurement, "measure", params, silence_s, on_event or _unheard)

    def measure_layers(
        self,
        paths: Sequence[Path],
        *,
        runtime: str,
        threads: int,
        protocol: MeasuringProtocol,
        on_event: OnEvent | None = None,
    ) -> tuple[LayerTiming, ...]:
        """Push small models and time them all in one worker; the timings are in the order of `paths`.

        `on_event` is called with {"phase": "sending|layers", "done": i, "of": n}.
        """
        self._upload(tuple(paths), _sending(on_event), "measure")
        params = {"files": [sha256(path) for path in paths], **_how(runtime, threads, protocol)}
        silence_s = protocol.timeout_s + WORKER_MARGIN_S
        result = self._link.start("measure_layers", params).result(silence_s, on_event or _unheard)
        timings: tuple[LayerTiming, ...] = self._decode(
            tuple[LayerTiming, ...], "measure_layers", result.get("timings")
        )
        if [timing.file_sha256 for timing in timings] != params["files"]:
            raise TransportError("the agent timed other layers than it was asked to")
        return timings

    def stage(self, digest: str, signatures: Sequence[Json] = (), *, allow_downgrade: bool = False) -> None:
        """Put a pushed bundle together on the device; what is active there stays active.

        Args:
            digest: of the bundle; all its files, the manifest too, must have been pushed.
            signatures: of the manifest, for a device that wants one; see `pipeline.signing`.
            allow_downgrade: take a bundle that is older than one that was active there.
        """
        params = {
            "manifest_sha256": digest,
            "signatures": list(signatures),
            "allow_downgrade": allow_downgrade,
        }
        self._link.start("bundle.stage", params).result(CHECK_S)

    def check(self, digest: str, on_event: OnEvent | None = None) -> CheckReport:
        """Have a staged bundle answer its golden input in a fresh process, and compare."""
        return self._ask(CheckReport, "bundle.check", {"bundle": digest}, CHECK_S, on_event or _unheard)

    def activate(self, digest: str, *, confirm_within_s: float | None = None) -> int:
        """Switch to a staged bundle whose check passed, in one step; return the new generation.

        With `confirm_within_s`, the application on the board has so many seconds to confirm that it works with the
        model; the device goes back by itself if it does not.
        """
        params = {"bundle": digest, "confirm_within_s": confirm_within_s}
        return self._field(int, "bundle.activate", params, "generation")

    def commit(self, digest: str) -> int:
        """Make an activation final and return its generation; without it, the agent's restart undoes it."""
        return self._field(int, "bundle.commit", {"bundle": digest}, "generation")

    def confirm(self, digest: str) -> int:
        """Say, as the application would, that the activated model works; return its generation."""
        return self._field(int, "bundle.confirm", {"bundle": digest}, "generation")

    def rollback(self, *, to_previous: bool = False) -> str | None:
        """Undo an activation that was not committed; return the digest of the bundle that is current then.

        With `to_previous`, a committed one is taken back, too: the bundle before it becomes current again.
        """
        kind: Any = str | None
        params = {"to_previous": to_previous}
        current: str | None = self._field(kind, "bundle.rollback", params, "current")
        return current

    def mark_bad(self, digest: str, why: str) -> str | None:
        """Never activate this bundle again; return the digest of the bundle that is current then."""
        kind: Any = str | None
        params = {"bundle": digest, "why": why}
        current: str | None = self._field(kind, "bundle.mark_bad", params, "current")
        return current

    @contextmanager
    def lease(self, *, hold_s: float, wait_s: float) -> Iterator[None]:
        """Keep the turn to measure for several measurements, first come first served.

        Args:
            hold_s: after so many seconds the turn goes to whoever waits.
            wait_s: how long to wait for it; then `AgentError` with the code "busy".
        """
        params = {"hold_s": hold_s, "wait_s": wait_s}
        link = self._link
        link.start("lease.acquire", params).result(wait_s + WORKER_MARGIN_S)
        try:
            yield
        finally:
            link.start("lease.release", {}).result(QUICK_S)  # on the same one: the turn ended with its link

    def collect(self, keep: Iterable[str] = ()) -> CollectReport:
        """Remove the files that neither `keep` (digests) nor the current, previous or staged bundle names."""
        return self._ask(CollectReport, "files.collect", {"keep": sorted(keep)}, QUICK_S)

    def _upload(
        self, paths: tuple[Path, ...], on_progress: OnProgress | None, purpose: Purpose
    ) -> PushReport:
        """Send files; after a lost link wait, go on, and give up only after several tries that sent nothing more."""
        files, sent = digests(paths), Sent(on_progress)
        waits, before = self._patience.waits(), 0
        while True:
            try:
                return upload(self._link, files, sent, purpose)
            except LinkLostError as error:
                if sent.bytes > before:
                    waits, before = self._patience.waits(), sent.bytes
                wait_s = None if self._closed else next(waits, None)
                if wait_s is None:
                    raise
                self._notice(f"{error.message}; trying again in {wait_s:.1f} s")
                time.sleep(wait_s)

    def _ask(
        self, kind: type[T], method: str, params: Json, silence_s: float, on_event: OnEvent | None = None
    ) -> T:
        found: T = self._decode(kind, method, self._link.start(method, params).result(silence_s, on_event))
        return found

    def _field(self, kind: type[T], method: str, params: Json, name: str) -> T:
        answer = self._link.start(method, params).result(QUICK_S)
        found: T = self._decode(kind, method, answer.get(name))
        return found

    def _decode(self, kind: Any, method: str, value: object) -> Any:
        try:
            return _adapter(kind).validate_python(value)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the answer"
            raise TransportError(
                f"the agent's answer to {method!r} is not understood: {where}: {first['msg']}",
                hint=f"the agent's version is {self.agent_version}; install the one of this pipeline",
            ) from error


def _sending(on_event: OnEvent | None) -> OnProgress | None:
    """Tell the progress of an upload as events."""
    if on_event is None:
        return None
    return lambda done, of: on_event({"phase": "sending", "done": done, "of": of})


def _unheard(_: dict[str, object]) -> None:
    """Take an event as a sign of life, and nothing else."""


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _how(runtime: str, threads: int, protocol: MeasuringProtocol) -> Json:
    return {"runtime": runtime, "threads": threads, "protocol": asdict(protocol)}
