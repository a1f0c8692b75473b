"""What the agent can be asked: one method of `Agent` a request, named in `METHODS`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Optional

from device_agent import __version__, errors, facts, manifest, wire
from device_agent.errors import RequestError
from device_agent.protocol import MeasuringProtocol, from_params
from device_agent.sensors.conditions import ConditionSensors
from device_agent.store import FileStore, free_bytes
from device_agent.update import Updater, UpdateStatus, read_status
from device_agent.workers import Cancellation, Job, Listen, WorkerDiedError, Workers

Params = dict[str, Any]
_MOST_CRASHES = 8  # of models of one table, before the runtime itself is to blame


@dataclass(frozen=True)
class Request:
    """One request under way: its parameters and payload, and how to tell progress and be cancelled."""

    params: Params
    payload: bytes
    tell: Listen
    cancellation: Cancellation


def status(folder: Path, update: Optional[UpdateStatus] = None) -> Params:
    """Return what the agent knows about the board and about its state folder; changes nothing."""
    sensors = ConditionSensors()
    return {
        "agent_version": __version__,
        "protocol": wire.PROTOCOL,
        "board": facts.board(),
        "runtimes": facts.runtimes(),
        "sensors": sensors.names,
        "conditions": sensors.read(),
        "disk_free_bytes": free_bytes(folder),
        "update": asdict(update or read_status(folder)),
    }


class Agent:
    """The services of one state folder; the caller holds the folder's lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = FileStore(folder)
        self._updater = Updater(folder, self._store)
        self._workers = Workers(folder)
        self._empty_bytes: dict[tuple[str, str], Optional[int]] = {}

    def status(self, _: Request) -> Params:
        """Serve `status`."""
        return status(self._folder, self._updater.status())

    def files_missing(self, request: Request) -> Params:
        """Serve `files.missing`."""
        files = request.params.get("files")
        if not isinstance(files, list) or not all(isinstance(file, dict) for file in files):
            raise RequestError("bad_request", "parameter 'files' is not a list of objects")
        wanted = [(errors.sha256_of(file, "sha256"), errors.integer(file, "size")) for file in files]
        absent = [(sha256, size) for sha256, size in wanted if not self._store.has(sha256)]
        return {"missing": [{"sha256": s, "offset": self._store.offset(s, size)} for s, size in absent]}

    def files_put(self, request: Request) -> Params:
        """Serve `files.put`."""
        sha256 = errors.sha256_of(request.params, "sha256")
        size, offset = errors.integer(request.params, "size"), errors.integer(request.params, "offset")
        return {"received": self._store.put(sha256, size, offset, request.payload)}

    def files_collect(self, request: Request) -> Params:
        """Serve `files.collect`."""
        keep = {*errors.sha256_list(request.params, "keep"), *self._updater.files_in_use()}
        removed, freed = self._store.collect(keep)
        return {"removed": removed, "freed_bytes": freed}

    def measure(self, request: Request) -> Params:
        """Serve `measure`: a worker with the runtime alone first (once), then one with the model."""
        path = self._store.path(errors.sha256_of(request.params, "file"))
        runtime, threads, protocol = self._how(request.params)
        installed = _installed(runtime)
        empty = self._empty_peak(runtime, installed["version"], protocol, request)
        job = Job("measure", runtime, threads, protocol, {"path": str(path)})
        measured = self._workers.run(job, request.cancellation, _events(request))
        peak, missing = measured["process_peak_bytes"], measured["missing"]
        known = peak is not None and empty is not None
        if not known:
            missing["model_peak_bytes"] = "the kernel offers no VmHWM in /proc/self/status"
        return {
            **measured,
            "file_sha256": path.name,
            "file_bytes": path.stat().st_size,
            "runtime": runtime,
            "threads": threads,
            "cores": list(self._workers.cores(threads)),
            "model_peak_bytes": max(0, peak - empty) if known else None,
            "missing": missing,
        }

    def measure_layers(self, request: Request) -> Params:
        """Serve `measure_layers`; a model that kills the worker is marked, the others go on in a new one."""
        digests = errors.sha256_list(request.params, "files")
        paths = [self._store.path(sha256) for sha256 in digests]
        runtime, threads, protocol = self._how(request.params)
        table = _LayerTable(paths, request)
        version = _installed(runtime)["version"]
        while open_paths := table.open_paths():
            job = Job("layers", runtime, threads, protocol, {"paths": open_paths})
            try:
                version = self._workers.run(job, request.cancellation, table.listen)["runtime_version"]
            except WorkerDiedError as error:
                table.blame(error)
        return {"timings": table.timings(), "runtime_version": version}

    def bundle_stage(self, request: Request) -> Params:
        """Serve `bundle.stage`."""
        return {"bundle": self._updater.stage(errors.sha256_of(request.params, "manifest_sha256"))}

    def bundle_check(self, request: Request) -> Params:
        """Serve `bundle.check`."""
        bundle = errors.sha256_of(request.params, "bundle")
        folder = self._updater.bundle_folder(bundle)
        contents = manifest.parse((folder / "manifest.json").read_bytes())
        _installed(contents.runtime)
        golden = {
            "model": contents.model_file,
            "inputs": contents.golden_inputs,
            "outputs": contents.golden_outputs,
            "rtol": contents.rtol,
            "atol": contents.atol,
        }
        details = {"folder": str(folder), "golden": golden}
        job = Job("check", contents.runtime, contents.threads, MeasuringProtocol(), details)
        result = self._workers.run(job, request.cancellation, _events(request))
        self._updater.mark_checked(bundle, ok=result["ok"])
        return result

    def bundle_activate(self, request: Request) -> Params:
        """Serve `bundle.activate`."""
        return {"generation": self._updater.activate(errors.sha256_of(request.params, "bundle"))}

    def bundle_commit(self, request: Request) -> Params:
        """Serve `bundle.commit`."""
        return {"generation": self._updater.commit(errors.sha256_of(request.params, "bundle"))}

    def bundle_rollback(self, request: Request) -> Params:
        """Serve `bundle.rollback`."""
        return {"current": self._updater.roll_back(to_previous=request.params.get("to_previous") is True)}

    @staticmethod
    def _how(params: Params) -> tuple[str, int, MeasuringProtocol]:
        protocol = from_params(params.get("protocol", {}))
        return errors.text(params, "runtime"), errors.integer(params, "threads", least=1), protocol

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
            peaks = [
                self._workers.run(job, request.cancellation, request.tell)["process_peak_bytes"]
                for _ in range(3)
            ]
            self._empty_bytes[key] = None if None in peaks else sorted(peaks)[1]
        return self._empty_bytes[key]


class _LayerTable:
    """Collects timings by position while workers come and go; relative to the files that are still open."""

    def __init__(self, paths: list[Path], request: Request) -> None:
        self._paths = paths
        self._tell = request.tell
        self._found: dict[int, Params] = {}
        self._open: list[int] = []
        self._opening = 0
        self._crashes = 0

    def open_paths(self) -> list[str]:
        """Return the files without a timing, for the next worker."""
        self._open = [index for index in range(len(self._paths)) if index not in self._found]
        return [str(self._paths[index]) for index in self._open]

    def listen(self, message: Params) -> None:
        """Take one line of the worker."""
        if "timing" in message:
            position, timing = message["timing"]
            self._found[self._open[position]] = timing
        elif "opening" in message["event"]:
            self._opening = message["event"]["opening"]
        else:
            done = len(self._paths) - len(self._open) + message["event"]["done"]
            self._tell({**message["event"], "done": done, "of": len(self._paths)})

    def blame(self, error: WorkerDiedError) -> None:
        """Mark the model that was opened last; raises the error again when too many did it."""
        self._crashes += 1
        if self._crashes > _MOST_CRASHES or not self._open:
            raise error
        self._found[self._open[self._opening]] = {"p50_ms": 0.0, "runs": 0, "error": error.message}

    def timings(self) -> list[Params]:
        """Return all timings in the order of the files."""
        return [{"file_sha256": path.name, **self._found[index]} for index, path in enumerate(self._paths)]


def _installed(runtime: str) -> dict[str, str]:
    found = facts.runtime(runtime)
    if found is None:
        known = ", ".join(entry["name"] for entry in facts.runtimes()) or "none"
        raise RequestError(
            "runtime_missing",
            f"the runtime {runtime!r} is not installed on this board (installed: {known})",
            "install it for the Python that runs the agent, or choose another runtime in the profile",
        )
    return found


def _events(request: Request) -> Listen:
    return lambda message: request.tell(message["event"])


METHODS: dict[str, Callable[[Agent, Request], Params]] = {
    "status": Agent.status,
    "files.missing": Agent.files_missing,
    "files.put": Agent.files_put,
    "files.collect": Agent.files_collect,
    "measure": Agent.measure,
    "measure_layers": Agent.measure_layers,
    "bundle.stage": Agent.bundle_stage,
    "bundle.check": Agent.bundle_check,
    "bundle.activate": Agent.bundle_activate,
    "bundle.commit": Agent.bundle_commit,
    "bundle.rollback": Agent.bundle_rollback,
}
