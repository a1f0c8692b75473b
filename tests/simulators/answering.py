"""The requests that a simulated agent answers: parameters and results are those of the real one."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from behaviour import Model
from measuring import Task, measure, time_layer
from processes import Worker
from turns import Tell

from device_agent import errors
from device_agent.errors import RequestError
from device_agent.measure.protocol import from_params
from device_agent.updates import manifest
from pipeline.errors import TransportError

if TYPE_CHECKING:
    from board import SimulatedBoard

Params = dict[str, Any]

_WAIT_S, _LONGEST_S, _LONGEST_CONFIRMATION_S = 3600.0, 24 * 3600.0, 7 * 24 * 3600.0
_CHECK_S, _CHECK_RUN_S, _CHECKS = 600.0, 1.0, 3
_DEADLY = ("worker_died", "timed_out", "out_of_memory")
_MOST_CRASHES = 8


@dataclass(eq=False)
class Session:
    """One connection: whose it is, and why it is of no more use."""

    who: str
    broken: str = ""

    def require(self) -> None:
        """Raise `TransportError` once the connection is broken."""
        if self.broken:
            raise TransportError(f"simulated device: {self.broken}", hint="connect to it again")


@dataclass(frozen=True)
class Request:
    """What was asked, by which connection, and who is told of its progress."""

    params: Params
    payload: bytes
    session: Session
    tell: Tell

    def digest(self, key: str = "bundle") -> str:
        """Return a parameter that must be a digest."""
        return errors.sha256_of(self.params, key)


def answer(board: SimulatedBoard, method: str, request: Request) -> Params:
    """Do one request.

    Raises:
        RequestError: as the real agent.
    """
    if method not in _METHODS:
        raise RequestError("bad_request", f"this agent has no method {method!r}")
    return _METHODS[method](board, request)


# --- files --------------------------------------------------------------------------------------------------------


def _missing(board: SimulatedBoard, request: Request) -> Params:
    purpose, disk = request.params["purpose"], board.disk
    wanted = [(errors.sha256_of(file, "sha256"), file["size"]) for file in request.params["files"]]
    disk.expect(sha256 for sha256, _ in wanted)
    absent = [(sha256, size) for sha256, size in wanted if not disk.has(sha256, purpose)]
    return {"missing": [{"sha256": sha256, "offset": disk.offset(sha256, size)} for sha256, size in absent]}


def _put(board: SimulatedBoard, request: Request) -> Params:
    params, chunk = request.params, request.payload
    place = (request.digest("sha256"), params["size"], params["offset"])
    came = board.faults.arriving(len(chunk))
    if came is not None:
        board.disk.put(*place, chunk[:came], params["purpose"])
        board.disconnect(request.session, "the connection broke during an upload")
        request.session.require()
    return {"received": board.disk.put(*place, chunk, params["purpose"])}


def _collect(board: SimulatedBoard, request: Request) -> Params:
    removed, freed = board.disk.collect(errors.sha256_list(request.params, "keep"))
    return {"removed": removed, "freed_bytes": freed}


# --- measuring ----------------------------------------------------------------------------------------------------


def _acquire(board: SimulatedBoard, request: Request) -> Params:
    hold_s, wait_s = _seconds(request.params, "hold_s"), _seconds(request.params, "wait_s")
    board.turns.take(request.session, request.session.who, hold_s, wait_s, request.tell)
    return {"hold_s": hold_s}


def _release(board: SimulatedBoard, request: Request) -> Params:
    return {"released": board.turns.release(request.session)}


def _measure(board: SimulatedBoard, request: Request) -> Params:
    digest = request.digest("file")
    model = _model(board, digest, request.params)
    protocol = from_params(request.params["protocol"])
    version = board.runtime(model.runtime)
    with board.turns.measuring(request.session, request.session.who, _WAIT_S, request.tell):
        if board.first_use(model.runtime):
            for _ in range(3):
                board.worker(request.session, protocol.timeout_s)
        worker = _worker(board, request, model.threads, protocol.timeout_s)
        measured = measure(Task(model, protocol, worker, request.tell), board.hardware.sensor)
    result = {
        **measured,
        "file_sha256": digest,
        "file_bytes": len(model.content),
        "runtime": model.runtime,
        "runtime_version": version,
        "threads": model.threads,
        "cores": list(range(model.threads)),
        "warnings": [],
    }
    board.remember(result, request.session)
    return result


def _measure_layers(board: SimulatedBoard, request: Request) -> Params:
    digests = errors.sha256_list(request.params, "files")
    models = [_model(board, digest, request.params) for digest in digests]
    protocol = from_params(request.params["protocol"])
    version = board.runtime(request.params["runtime"])
    found: dict[int, Params] = {}
    crashes = 0
    with board.turns.measuring(request.session, request.session.who, _WAIT_S, request.tell):
        while left := [index for index in range(len(models)) if index not in found]:
            try:
                worker = _worker(board, request, models[0].threads, protocol.timeout_s)
            except RequestError as error:
                crashes += 1
                if error.code != "worker_died" or crashes > _MOST_CRASHES:
                    raise
                found[left[0]] = _untimed(error)
                continue
            for index in left:
                found[index] = _timing(models[index], worker, protocol)
                request.tell({"phase": "layers", "done": len(found), "of": len(models)})
    timings = [{"file_sha256": digest, **found[index]} for index, digest in enumerate(digests)]
    return {"timings": timings, "runtime_version": version, "warnings": []}


def _timing(model: Model, worker: Worker, protocol: Any) -> Params:
    try:
        return time_layer(model, protocol, worker)
    except RequestError as error:
        if error.code not in ("model_refused", "out_of_memory"):
            raise
        return _untimed(error)


def _untimed(error: RequestError) -> Params:
    return {"p50_ms": 0.0, "runs": 0, "error": error.message}


def _model(board: SimulatedBoard, digest: str, params: Params) -> Model:
    content = board.disk.read(digest, "measure")
    return Model(content, errors.text(params, "runtime"), errors.integer(params, "threads", least=1))


def _worker(board: SimulatedBoard, request: Request, threads: int, timeout_s: float) -> Worker:
    if threads > board.hardware.cores:
        raise RequestError(
            "bad_request", f"{threads} threads asked for, the board has {board.hardware.cores} cores"
        )
    return board.worker(request.session, timeout_s)


# --- bundles ------------------------------------------------------------------------------------------------------


def _stage(board: SimulatedBoard, request: Request) -> Params:
    digest = request.digest("manifest_sha256")
    signatures = request.params["signatures"]
    texts = [each.get(part) for each in signatures for part in ("key", "signature") if isinstance(each, dict)]
    if len(signatures) > 16 or len(texts) < 2 * len(signatures) or not all(isinstance(t, str) for t in texts):
        raise RequestError("bad_request", "parameter 'signatures' is no list of signatures")
    data = board.disk.read(digest)
    if manifest.parse(data).kind != "model":
        raise NotImplementedError("bundles of the agent's own code are not simulated")
    signer = board.trust.signer(data, request.params["signatures"])
    board.updates.stage(digest, allow_downgrade=request.params["allow_downgrade"])
    return {"bundle": digest, "signed_by": signer}


def _check(board: SimulatedBoard, request: Request) -> Params:
    bundle = request.digest()
    with board.turns.measuring(request.session, request.session.who, _WAIT_S, request.tell):
        contents = board.updates.begin_check(bundle)
        try:
            result = _check_model(board, request, contents)
        except BaseException as error:
            if isinstance(error, RequestError) and error.code in _DEADLY:
                board.updates.fail_check(bundle, error.message)
            else:
                board.updates.end_check(bundle, ok=False)
            raise
        board.updates.end_check(bundle, ok=result["ok"])
        return result


def _activate(board: SimulatedBoard, request: Request) -> Params:
    confirm_s = request.params["confirm_within_s"]
    if confirm_s is not None:
        confirm_s = _seconds(request.params, "confirm_within_s", _LONGEST_CONFIRMATION_S)
        if confirm_s == 0:
            raise RequestError("bad_request", "confirm_within_s is 0")
    generation = board.updates.activate(request.digest(), confirm=confirm_s is not None)
    if confirm_s is not None:
        board.await_confirmation(generation, confirm_s)
    return {"generation": generation}


def _rollback(board: SimulatedBoard, request: Request) -> Params:
    why = f"rolled back by {request.session.who}"
    return {"current": board.updates.roll_back(to_previous=request.params["to_previous"], why=why)}


def _mark_bad(board: SimulatedBoard, request: Request) -> Params:
    why = f"{errors.text(request.params, 'why')[:300]} (said by {request.session.who})"
    return {"current": board.updates.mark_bad(request.digest(), why)}


def _check_model(board: SimulatedBoard, request: Request, contents: manifest.Manifest) -> Params:
    """Compare the answer with the golden one, and the latency with the expected one."""
    named = contents.model
    assert named is not None
    board.runtime(named.runtime)

    def file(name: str) -> bytes:
        return board.disk.read(contents.files[name].sha256)

    model = Model(file(named.file), named.runtime, named.threads)
    arrays = [[file(name) for name in names] for names in (named.golden_inputs, named.golden_outputs)]
    for _ in range(_CHECKS):
        worker = _worker(board, request, named.threads, _CHECK_S)
        worker.load(model)
        samples = worker.infer(model, _CHECK_RUN_S)
        error, why = _compared(board, model, *arrays, named)
        result = _check_result(error, why, samples, named)
        if result["ok"] or why:
            break
    return result


def _compared(
    board: SimulatedBoard, model: Model, asked: list[bytes], wanted: list[bytes], named: manifest.Model
) -> tuple[float, str]:
    """Return how far the model's answers are from the wanted ones, and why that is too far."""
    error = board.faults.golden_error()
    close = error <= named.atol
    if board.machine.behaviour.answer is not None and not error:
        found = board.machine.behaviour.answer(model.content, _arrays(asked))
        pairs = list(zip(found, _arrays(wanted), strict=True))
        error = max(float(np.max(np.abs(a - b))) for a, b in pairs)
        close = all(np.allclose(a, b, rtol=named.rtol, atol=named.atol) for a, b in pairs)
    return error, "" if close else f"its answer differs from the golden output by up to {error:.3g}"


def _check_result(error: float, why: str, samples_ns: Sequence[float], named: manifest.Model) -> Params:
    p50_ms = float(np.median(samples_ns)) / 1e6
    expected = named.expected_p50_ms
    if not why and expected is not None and p50_ms > expected * (1 + named.margin):
        why = f"it takes {p50_ms:.3f} ms, {expected:.3f} were expected"
    return {
        "ok": not why,
        "why": why,
        "max_abs_error": error,
        "tolerance": {"rtol": named.rtol, "atol": named.atol},
        "runs": len(samples_ns),
        "latency_p50_ms": p50_ms,
        "latency_best_ms": p50_ms,
        "slowdown": 1.0,
    }


def _arrays(files: Sequence[bytes]) -> list[Any]:
    return [np.load(io.BytesIO(data), allow_pickle=False) for data in files]


def _seconds(params: Params, key: str, most: float = _LONGEST_S) -> float:
    value = params[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise RequestError("bad_request", f"parameter {key!r} is no number of seconds up to {most:g}")
    return float(value)


_METHODS: dict[str, Callable[[SimulatedBoard, Request], Params]] = {
    "status": lambda board, _: board.status(),
    "files.missing": _missing,
    "files.put": _put,
    "files.collect": _collect,
    "lease.acquire": _acquire,
    "lease.release": _release,
    "measure": _measure,
    "measure_layers": _measure_layers,
    "bundle.stage": _stage,
    "bundle.check": _check,
    "bundle.activate": _activate,
    "bundle.commit": lambda board, request: {"generation": board.updates.commit(request.digest())},
    "bundle.confirm": lambda board, request: {
        "generation": board.updates.commit(request.digest(), confirmed=True)
    },
    "bundle.rollback": _rollback,
    "bundle.mark_bad": _mark_bad,
}
