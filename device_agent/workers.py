"""The agent's side of a worker: start it, hear it, end it on a timeout, a cancel or the agent's own end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from device_agent.errors import RequestError
from device_agent.protocol import MeasuringProtocol
from device_agent.sensors import SYSFS
from device_agent.sensors.frequency import fastest_cores
from device_agent.sensors.memory import MemorySensor

Listen = Callable[[dict[str, Any]], None]
_STDERR_TAIL_LINES = 5


class Cancellation:
    """Tells a request that nobody waits for it any more."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._stop: Optional[Callable[[], None]] = None

    def cancel(self) -> None:
        """Cancel now; a worker that is under way is killed."""
        with self._lock:
            self._cancelled = True
            stop = self._stop
        if stop is not None:
            stop()

    def raise_if_cancelled(self) -> None:
        """Raise `cancelled` once the request is cancelled."""
        if self._cancelled:
            raise RequestError("cancelled", "the request was cancelled")

    def on_cancel(self, stop: Optional[Callable[[], None]]) -> None:
        """Have `stop` called on a cancel, at once if it came already; `None` takes it back."""
        with self._lock:
            self._stop = stop
            cancelled = self._cancelled
        if cancelled and stop is not None:
            stop()


@dataclass(frozen=True)
class Job:
    """What a worker is to do: its kind (empty, measure, layers, check) with `details` of its own."""

    kind: str
    runtime: str
    threads: int
    protocol: MeasuringProtocol
    details: dict[str, Any]


class WorkerDiedError(RequestError):
    """A worker ended without an answer."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__("worker_died", message, hint)


class Workers:
    """Starts workers, one at a time: two measurements at once would disturb each other."""

    def __init__(self, folder: Path, sysfs: Path = SYSFS) -> None:
        self._folder = folder
        self._sysfs = sysfs
        self._turn = threading.Lock()

    def cores(self, threads: int) -> tuple[int, ...]:
        """Return the cores to pin `threads` threads to.

        Raises:
            RequestError: `bad_request` if the board has fewer.
        """
        allowed = os.sched_getaffinity(0)
        if threads > len(allowed):
            raise RequestError(
                "bad_request", f"{threads} threads asked for, the board has {len(allowed)} cores"
            )
        return fastest_cores(allowed, threads, self._sysfs)

    def run(self, job: Job, cancellation: Cancellation, listen: Listen) -> dict[str, Any]:
        """Do a job in a fresh process and return its result.

        Args:
            job: what to do.
            cancellation: ends the wait and the worker.
            listen: is given every line that is neither result nor error, as it comes.

        Raises:
            RequestError: what the worker answered, or `worker_died`, `timed_out`, `cancelled`.
        """
        while not self._turn.acquire(timeout=0.1):
            cancellation.raise_if_cancelled()
        try:
            cancellation.raise_if_cancelled()
            return _Running(self._command(job), self._folder, job, cancellation).result(listen)
        finally:
            self._turn.release()

    def _command(self, job: Job) -> dict[str, Any]:
        return {
            "kind": job.kind,
            "runtime": job.runtime,
            "threads": job.threads,
            "protocol": asdict(job.protocol),
            "cores": self.cores(job.threads),
            "sysfs": str(self._sysfs),
            "agent_pid": os.getpid(),
            "memory_limit_bytes": MemorySensor().total_bytes(),
            **job.details,
        }


class _Running:
    """One worker process from its start to its end."""

    def __init__(self, command: dict[str, Any], folder: Path, job: Job, cancellation: Cancellation) -> None:
        self._cancellation = cancellation
        self._timeout_s = job.protocol.timeout_s
        self._timed_out = False
        command["started_ns"] = time.monotonic_ns()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "device_agent.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=_environment(job.threads),
            start_new_session=True,
        )
        self._command = json.dumps(command).encode()

    def result(self, listen: Listen) -> dict[str, Any]:
        """Feed the worker, hear it to its end and return its result."""
        timer = threading.Timer(self._timeout_s, self._time_out)
        timer.daemon = True
        timer.start()
        self._cancellation.on_cancel(self._kill)
        try:
            with self._process:
                try:
                    return self._hear(listen)
                except BaseException:
                    self._kill()
                    raise
        finally:
            self._cancellation.on_cancel(None)
            timer.cancel()

    def _hear(self, listen: Listen) -> dict[str, Any]:
        tail: deque[bytes] = deque(maxlen=_STDERR_TAIL_LINES)
        assert self._process.stdin and self._process.stdout and self._process.stderr  # noqa: S101, PT018
        drain = threading.Thread(target=tail.extend, args=(self._process.stderr,), daemon=True)
        drain.start()
        with contextlib.suppress(BrokenPipeError):  # if it died already, how is said below
            self._process.stdin.write(self._command)
            self._process.stdin.close()
        for line in self._process.stdout:
            if not line.endswith(b"\n"):
                break  # it was killed while it wrote
            message = json.loads(line)
            if "result" in message:
                result: dict[str, Any] = message["result"]
                return result
            if "error" in message:
                raise RequestError(**message["error"])
            listen(message)
        self._process.wait()
        drain.join(timeout=1)
        raise self._end(b"".join(tail).decode("utf-8", "replace").strip())

    def _end(self, last_words: str) -> RequestError:
        """Return why the worker ended without an answer."""
        if self._timed_out:
            return RequestError(
                "timed_out", f"the worker took longer than {self._timeout_s:g} s and was ended"
            )
        try:
            self._cancellation.raise_if_cancelled()
        except RequestError as cancelled:
            return cancelled
        status = self._process.returncode
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        hint = "the kernel kills so when memory runs out" if status == -signal.SIGKILL else ""
        said = f"; its last words: {last_words[-500:]}" if last_words else ""
        return WorkerDiedError(f"the worker {how}{said}", hint)

    def _time_out(self) -> None:
        self._timed_out = True
        self._kill()

    def _kill(self) -> None:
        """Kill the worker's whole session, unless it was waited for (its number may be another's now)."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)


def _environment(threads: int) -> dict[str, str]:
    """Let the worker find this very package (a folder or one zip file) and use no other number of threads."""
    package = str(Path(__file__).resolve().parent.parent)
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": str(threads)}
