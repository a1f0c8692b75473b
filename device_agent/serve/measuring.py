"""The methods that measure, and the leases under which they do."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator
from typing import Any, Optional

from device_agent import errors
from device_agent.measure.protocol import MeasuringProtocol, from_params
from device_agent.serve.board import Board
from device_agent.serve.hooks import Hooks
from device_agent.serve.layer_table import LayerTable
from device_agent.serve.lease import Leases
from device_agent.serve.request import Params, Request
from device_agent.updates.store import FileStore
from device_agent.work.workers import Job, Listen, WorkerDiedError, Workers

WAIT_S = 3600.0  # for the turn, unless the request says otherwise
HOLD_S = 600.0
_LONGEST_S = 24 * 3600.0
_REMEMBERED = 5


class Measuring:
    """Measures what was uploaded, one request after the other."""

    def __init__(
        self, store: FileStore, workers: Workers, board: Board, hooks: Hooks, leases: Leases
    ) -> None:
        self._store = store
        self._workers = workers
        self._board = board
        self._hooks = hooks
        self._leases = leases
        self._empty_bytes: dict[tuple[str, str], Optional[int]] = {}
        self._last: deque[Params] = deque(maxlen=_REMEMBERED)

    def describe(self) -> Params:
        """Return what the status tells: the lease and the last measurements."""
        return {"lease": self._leases.describe(), "last_measurements": list(self._last)}

    def forget(self, session: object) -> None:
        """Take back what a connection that is gone held."""
        self._leases.release(session)

    def acquire(self, request: Request) -> Params:
        """Serve `lease.acquire`."""
        hold_s, wait_s = (
            _seconds(request.params, "hold_s", HOLD_S),
            _seconds(request.params, "wait_s", WAIT_S),
        )
        self._leases.acquire(
            request.session, str(request.session.peer), hold_s, wait_s, request.cancellation, request.tell
        )
        return {"hold_s": hold_s}

    def release(self, request: Request) -> Params:
        """Serve `lease.release`."""
        return {"released": self._leases.release(request.session)}

    def measure(self, request: Request) -> Params:
        """Serve `measure`: a worker with the runtime alone first (once), then one with the model."""
        path = self._store.path(errors.sha256_of(request.params, "file"), "measure")
        runtime, threads, protocol = _how(request.params)
        installed = self._board.require(runtime)
        with self._turn(request) as warnings:
            empty = self._empty_peak(runtime, installed["version"], protocol, request)
            job = Job("measure", runtime, threads, protocol, {"path": str(path)})
            measured = self._workers.run(job, request.cancellation, events(request))
        peak, missing = measured["process_peak_bytes"], measured["missing"]
        known = peak is not None and empty is not None
        if not known:
            missing["model_peak_bytes"] = "the kernel offers no VmHWM in /proc/self/status"
        result = {
            **measured,
            "file_sha256": path.name,
            "file_bytes": path.stat().st_size,
            "runtime": runtime,
            "threads": threads,
            "cores": list(self._workers.cores(threads)),
            "model_peak_bytes": max(0, peak - empty) if known else None,
            "missing": missing,
            "warnings": [*measured.get("warnings", []), *warnings],
        }
        self._remember(result, request)
        return result

    def measure_layers(self, request: Request) -> Params:
        """Serve `measure_layers`; a model that kills the worker is marked, the others go on in a new one."""
        digests = errors.sha256_list(request.params, "files")
        paths = [self._store.path(sha256, "measure") for sha256 in digests]
        runtime, threads, protocol = _how(request.params)
        table = LayerTable(paths, request)
        version = self._board.require(runtime)["version"]
        with self._turn(request) as warnings:
            while open_paths := table.open_paths():
                job = Job("layers", runtime, threads, protocol, {"paths": open_paths})
                try:
                    ended = self._workers.run(job, request.cancellation, table.listen)
                    version = ended["runtime_version"]
                except WorkerDiedError as error:
                    table.blame(error)
        return {"timings": table.timings(), "runtime_version": version, "warnings": list(warnings)}

    @contextlib.contextmanager
    def _turn(self, request: Request) -> Iterator[list[str]]:
        """Have the board to oneself: the turn, and the board's application out of the way.

        Yields a list that holds, at the end, what went wrong with the application.
        """
        wait_s = _seconds(request.params, "wait_s", WAIT_S)
        who = str(request.session.peer)
        warnings: list[str] = []
        turn = self._leases.turn(request.session, who, wait_s, request.cancellation, request.tell)
        with turn, self._hooks.around(warnings.append):
            yield warnings

    def _remember(self, result: Params, request: Request) -> None:
        known = {key: result[key] for key in ("file_sha256", "runtime", "threads", "runs", "flags")}
        p50 = result["latency_ms"]["p50"]
        moment = {"at": time.time(), "by": str(request.session.peer)}
        self._last.appendleft({**known, "p50_ms": p50, "energy_mj": result["energy_mj"], **moment})

    def _empty_peak(
        self, runtime: str, version: str, protocol: MeasuringProtocol, request: Request
    ) -> Optional[int]:
        """Return VmHWM of a worker with the runtime and no model; the middle of three, kept for next time.

        The first of the three also brings the runtime's libraries into the page cache, where the measured
        worker will find them, too.
        """
        key = (runtime, version)
        if key not in self._empty_bytes:
            job = Job("empty", runtime, 1, protocol, {})
            answers = [self._workers.run(job, request.cancellation, events(request)) for _ in range(3)]
            peaks = [answer["process_peak_bytes"] for answer in answers]
            self._empty_bytes[key] = None if None in peaks else sorted(peaks)[1]
        return self._empty_bytes[key]


def events(request: Request) -> Listen:
    """Return a listener that passes a worker's events on to whoever asked."""
    return lambda message: request.tell(message["event"])


def _how(params: Params) -> tuple[str, int, MeasuringProtocol]:
    protocol = from_params(params.get("protocol", {}))
    return errors.text(params, "runtime"), errors.integer(params, "threads", least=1), protocol


def _seconds(params: Params, key: str, default: float) -> float:
    value: Any = params.get(key, default)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value <= _LONGEST_S:
        raise errors.RequestError(
            "bad_request", f"parameter {key!r} is no number of seconds up to {_LONGEST_S:g}"
        )
    return float(value)
