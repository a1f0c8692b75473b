"""The agent's side of a worker: start it, hear it, end it and all that came of it.

What a worker says is not trusted: it may be what a hostile model made of it. See `confine` for what a worker
may do, `pipes` for how much it may say, `offspring` for how nothing of it stays.
"""

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
from pathlib import Path
from typing import Any, NamedTuple, Optional

from device_agent.errors import RequestError
from device_agent.measure.protocol import MeasuringProtocol
from device_agent.sensors import SYSFS
from device_agent.sensors.frequency import fastest_cores
from device_agent.work import cgroup, offspring, worker_user, workplace
from device_agent.work.confine import memory_limit_bytes
from device_agent.work.messages import Messages, error_of
from device_agent.work.pipes import Pipes, TooMuchError

Listen = Callable[[dict[str, Any]], None]
_AT_ONCE = ("facts", "verify")  # they touch no model: no turn, no cores of their own
_FIRMWARE = "/dev/vcio"
_PACES = 9  # so many workers' pace is remembered: a core may become slower for good


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


class Job(NamedTuple):
    """What a worker is to do, with `details` of its own.

    Kinds: empty, measure, layers, check; facts and verify need no runtime ("") and run at once.
    """

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
    """Starts workers; those that open a model one at a time, for two measurements would disturb each other.

    Args:
        folder: the state folder; its lock is the caller's. Workers' own folders are made in it.
        sysfs: where the kernel describes the board.
        user: run workers as this user, where the agent may change users.
        energy_meter: an external meter, as `sensors.energy.find` takes it.
    """

    def __init__(
        self,
        folder: Path,
        sysfs: Path = SYSFS,
        user: Optional[str] = None,
        energy_meter: Optional[str] = None,
    ) -> None:
        self._places = folder.absolute() / "workers"
        self._sysfs = sysfs
        self._user = user
        self._energy_meter = energy_meter
        self._turn = threading.Lock()
        self._few = threading.Semaphore(2)  # at a time, of those that need no turn
        self._paces_ns: deque[float] = deque(maxlen=_PACES)  # the shortest that the yardstick took in each
        self._group = cgroup.delegated()
        offspring.adopt_orphans()
        with contextlib.suppress(RequestError):  # whoever starts a worker is told
            workplace.clear(self._places, worker_user.find(user))

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
        """Do a job in a fresh process and return its result; nothing of that process is left then.

        Args:
            job: what to do.
            cancellation: ends the wait and the worker.
            listen: is given every line that is neither result nor error, as it comes; it should not wait.

        Returns:
            What the worker found; of a measurement also `confinement`, the measures that held (`confine`).

        Raises:
            RequestError: what the worker answered, or `worker_died`, `timed_out`, `cancelled`, `disk_full`,
                `no_worker_user`.
        """
        at_once = job.kind in _AT_ONCE
        turn = self._few if at_once else self._turn
        while not turn.acquire(timeout=0.1):
            cancellation.raise_if_cancelled()
        try:
            cancellation.raise_if_cancelled()
            result = self._run(job, cancellation, listen, () if at_once else self.cores(job.threads))
            self._learn_pace(result.pop("pace_ns", None))
            return result
        finally:
            turn.release()

    def _run(
        self, job: Job, cancellation: Cancellation, listen: Listen, cores: tuple[int, ...]
    ) -> dict[str, Any]:
        devices = self._devices(job.protocol)
        identity = None if job.kind in _AT_ONCE else worker_user.find(self._user, devices)
        with workplace.Workplace(self._places, identity) as place:
            running = _Running(job, place, cancellation, self._group)
            return running.result(self._command(job, cores, devices, place), identity or {}, listen)

    def _command(
        self, job: Job, cores: tuple[int, ...], devices: list[str], place: workplace.Workplace
    ) -> dict[str, Any]:
        return {
            "kind": job.kind,
            "runtime": job.runtime,
            "threads": job.threads,
            "protocol": job.protocol._asdict(),
            "cores": cores,
            "sysfs": str(self._sysfs),
            "energy_meter": self._energy_meter,
            "devices": devices,
            "place": str(place.path),
            "agent_pid": os.getpid(),
            "agent_user": os.geteuid(),
            "pace_ns": min(self._paces_ns, default=None),
            **job.details,
        }

    def _learn_pace(self, shortest_ns: object) -> None:
        """Remember a worker's pace (`measure.pace`); one that refused all it was given looked at none."""
        if isinstance(shortest_ns, (int, float)) and shortest_ns > 0:
            self._paces_ns.append(shortest_ns)

    def _devices(self, protocol: MeasuringProtocol) -> list[str]:
        """Return the device files that measuring energy needs, if that is wanted."""
        if not protocol.energy:
            return []
        meter = self._energy_meter or ""
        if meter.startswith("serial:"):
            meter = meter[len("serial:") :].partition("@")[0]
        return [
            *([meter] if meter not in ("", "-") else []),
            _FIRMWARE,
        ]


class _Running:
    """One worker process from its start to its end."""

    def __init__(
        self, job: Job, place: workplace.Workplace, cancellation: Cancellation, groups: Optional[Path]
    ) -> None:
        self._job = job
        self._place = place
        self._cancellation = cancellation
        self._groups = groups
        self._confinement: list[str] = []

    def result(self, command: dict[str, Any], identity: dict[str, Any], listen: Listen) -> dict[str, Any]:
        """Start the worker, feed it, hear it to its end and return its result."""
        mine = offspring.Offspring()
        command["started_ns"] = time.monotonic_ns()
        process = self._start(identity)
        group = None
        self._cancellation.on_cancel(lambda: offspring.kill_group(process))
        try:
            group = self._group(process)
            with Pipes(process, process.stderr, process.stdout, json.dumps(command).encode()) as pipes:
                return self._hear(process, pipes, listen)
        finally:
            self._cancellation.on_cancel(None)
            self._end(process, mine, group)

    def _start(self, identity: dict[str, Any]) -> subprocess.Popen[bytes]:
        try:
            return offspring.start(
                [sys.executable, "-m", "device_agent.work.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=self._place.path,
                env=_environment(self._job.threads, self._place.path),
                **identity,
            )
        except OSError as error:
            raise WorkerDiedError(
                f"the worker could not be started: {error}", "its user must be allowed to run this Python"
            ) from error

    def _group(self, process: subprocess.Popen[bytes]) -> Optional[cgroup.WorkerGroup]:
        """Put the worker, which waits for its job, into a control group of its own, where there is one to divide."""
        if self._groups is None:
            return None
        with contextlib.suppress(OSError):
            group = cgroup.WorkerGroup(self._groups, self._place.path.name, memory_limit_bytes())
            group.add(process.pid)
            self._confinement = ["cgroup", *(f"cgroup:{limit}" for limit in group.limits)]
            return group
        return None

    def _hear(self, process: subprocess.Popen[bytes], pipes: Pipes, listen: Listen) -> dict[str, Any]:
        messages = Messages()
        timeout_s = self._job.protocol.timeout_s
        try:
            for line in pipes.lines(timeout_s, self._place.require_room):
                message = messages.read(line)
                if message is None:
                    continue
                if "result" in message:
                    return self._finished(message["result"])
                if "error" in message:
                    raise RequestError(**error_of(message))
                if "confined" in message:
                    self._confinement += message["confined"]
                else:
                    listen(message)
        except TimeoutError:
            raise RequestError(
                "timed_out", f"the worker took longer than {timeout_s:g} s and was ended"
            ) from None
        except TooMuchError as error:
            raise WorkerDiedError(f"the worker was ended: {error}") from error
        except ValueError as error:
            raise WorkerDiedError(f"the worker answered what cannot be read: {str(error)[:200]}") from error
        raise self._why_it_ended(process, pipes.tail)

    def _finished(self, result: dict[str, Any]) -> dict[str, Any]:
        return {**result, "confinement": self._confinement} if self._job.kind == "measure" else result

    def _why_it_ended(self, process: subprocess.Popen[bytes], last_words: str) -> RequestError:
        """Return why the worker ended without an answer."""
        try:
            self._cancellation.raise_if_cancelled()
        except RequestError as cancelled:
            return cancelled
        status = process.returncode
        hint = "the kernel kills so when memory runs out" if status == -signal.SIGKILL else ""
        said = f"; its last words: {last_words[-500:]}" if last_words else ""
        return WorkerDiedError(f"the worker {_how_it_ended(status)}{said}", hint)

    def _end(
        self,
        process: subprocess.Popen[bytes],
        mine: offspring.Offspring,
        group: Optional[cgroup.WorkerGroup],
    ) -> None:
        """Kill the worker and everything that came of it."""
        gone = offspring.end(process)
        if group is not None:
            gone = group.end() and gone
        if self._job.kind not in _AT_ONCE:
            gone = mine.end_all() and gone
        if not gone:
            raise WorkerDiedError("processes of the worker do not end", "restart the board")


def _how_it_ended(status: Optional[int]) -> str:
    if status is None:
        return "closed its output and did not end"
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"


def _environment(threads: int, place: Path) -> dict[str, str]:
    """Let the worker find this very package (a folder or one zip file) and use no other number of threads.

    OpenBLAS would set aside 40 MB a thread for numpy, which has no matrices to multiply here.
    """
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": str(threads),
        "OPENBLAS_NUM_THREADS": "1",
        "TMPDIR": str(place),
    }
