"""What a device can be asked, as typed methods; every one has a deadline.

Files are named by their content on a device: measuring a file pushes it first if the device lacks it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.device.link import Json, Link
from pipeline.device.transport import Transport
from pipeline.device.upload import OnProgress, digests, upload
from pipeline.device.values import BoardStatus, CheckReport, CollectReport, PushReport
from pipeline.errors import TransportError
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

    def stage(self, digest: str) -> None:
        """Put a pushed bundle together on the device."""

    def check(self, digest: str, on_event: OnEvent | None = None) -> CheckReport:
        """Have the staged bundle answer its golden input."""

    def activate(self, digest: str) -> int:
        """Switch to a staged and checked bundle; return the new generation."""

    def commit(self, digest: str) -> int:
        """Make an activation final; return its generation."""

    def rollback(self) -> str | None:
        """Undo an activation that was not committed; return the digest of the bundle that is current then."""

    def collect(self, keep: Iterable[str] = ()) -> CollectReport:
        """Remove the files that nothing refers to."""


class DeviceClient:
    """A `Device` at the other end of a transport; also a context manager that closes it.

    Every method raises `AgentError` if the agent answers with an error (its `code` says which), and
    `TransportError` if the link breaks or stays silent beyond the method's deadline.
    """

    def __init__(self, transport: Transport) -> None:
        self._link = Link(transport)

    def __enter__(self) -> DeviceClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the link; a local agent ends with it, and a request under way is cancelled."""
        self._link.close()

    @property
    def agent_version(self) -> str:
        """The version that the agent stated in its hello."""
        return self._link.agent_version

    def status(self) -> BoardStatus:
        """Return what the device is and how it is; changes nothing there."""
        return self._ask(BoardStatus, "status", {}, QUICK_S)

    def push(self, paths: Sequence[Path], on_progress: OnProgress | None = None) -> PushReport:
        """Send what the device lacks of these files; an upload that broke off goes on where it stopped.

        Args:
            paths: files to send; the same content is sent once.
            on_progress: is called with the bytes sent and the bytes to send.

        Raises:
            InputError: a file cannot be read.
        """
        return upload(self._link, digests(tuple(paths)), on_progress)

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
            on_event: is called with {"phase": "warmup|measure|cooldown", "done": n, "of": m}.
        """
        files = digests((path,))
        upload(self._link, files)
        params = {"file": next(iter(files)), **_how(runtime, threads, protocol)}
        return self._ask(Measurement, "measure", params, protocol.timeout_s + WORKER_MARGIN_S, on_event)

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

        `on_event` is called with {"phase": "layers", "done": i, "of": n}.
        """
        upload(self._link, digests(tuple(paths)))
        params = {"files": [sha256(path) for path in paths], **_how(runtime, threads, protocol)}
        silence_s = protocol.timeout_s + WORKER_MARGIN_S
        result = self._link.start("measure_layers", params).result(silence_s, on_event)
        timings: tuple[LayerTiming, ...] = self._decode(
            tuple[LayerTiming, ...], "measure_layers", result.get("timings")
        )
        if [timing.file_sha256 for timing in timings] != params["files"]:
            raise TransportError("the agent timed other layers than it was asked to")
        return timings

    def stage(self, digest: str) -> None:
        """Put a pushed bundle together on the device; what is active there stays active.

        Args:
            digest: of the bundle; all its files, the manifest too, must have been pushed.
        """
        self._link.start("bundle.stage", {"manifest_sha256": digest}).result(QUICK_S)

    def check(self, digest: str, on_event: OnEvent | None = None) -> CheckReport:
        """Have a staged bundle answer its golden input in a fresh process, and compare."""
        return self._ask(CheckReport, "bundle.check", {"bundle": digest}, CHECK_S, on_event)

    def activate(self, digest: str) -> int:
        """Switch to a staged bundle whose check passed, in one step; return the new generation."""
        return self._field(int, "bundle.activate", {"bundle": digest}, "generation")

    def commit(self, digest: str) -> int:
        """Make an activation final and return its generation; without it, the agent's restart undoes it."""
        return self._field(int, "bundle.commit", {"bundle": digest}, "generation")

    def rollback(self) -> str | None:
        """Undo an activation that was not committed; return the digest of the bundle that is current then."""
        kind: Any = str | None
        current: str | None = self._field(kind, "bundle.rollback", {}, "current")
        return current

    def collect(self, keep: Iterable[str] = ()) -> CollectReport:
        """Remove the files that neither `keep` (digests) nor the current, previous or staged bundle names."""
        return self._ask(CollectReport, "files.collect", {"keep": sorted(keep)}, QUICK_S)

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


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _how(runtime: str, threads: int, protocol: MeasuringProtocol) -> Json:
    return {"runtime": runtime, "threads": threads, "protocol": asdict(protocol)}
