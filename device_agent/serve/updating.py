"""The methods `bundle.*`: a model's way to being the active one, and a new agent's way to being the running one.

Both kinds of bundle go the same way (see `update`), each in a folder of its own; they differ in how a staged
one is checked and in what follows its activation.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from device_agent import errors
from device_agent.errors import RequestError
from device_agent.log import log
from device_agent.measure.protocol import MeasuringProtocol
from device_agent.serve.board import Board
from device_agent.serve.lease import Leases
from device_agent.serve.measuring import WAIT_S, events
from device_agent.serve.peers import OPERATOR
from device_agent.serve.request import Params, Request
from device_agent.serve.trees import AGENT_FOLDER, STARTS, self_test
from device_agent.settings import Settings
from device_agent.updates import manifest, staging
from device_agent.updates.store import FileStore
from device_agent.updates.update import Updater
from device_agent.work.workers import Job, Workers

_LONGEST_CONFIRMATION_S = 7 * 24 * 3600.0
MOST_SIGNATURES = 16
_LONGEST_SIGNATURE = 200
_CHECKS = 3  # of a model that seems too slow: the board may just have been busy
_MOST_SLOWED = 2.5  # times that a processor below its full pace excuses
_DEADLY = ("worker_died", "timed_out", "out_of_memory")  # a check that ends so counts as a crash


class Updating:
    """The two updates of one state folder.

    Args:
        settings: of the agent.
        store: where uploaded files are.
        workers: runs checks and verifications.
        board: knows the runtimes.
        leases: a model is checked when nobody measures.
        changed: is called when another bundle became the active model.
        restart: ends this agent so that the newly activated one is started; `None` if nobody starts it.
    """

    def __init__(
        self,
        settings: Settings,
        store: FileStore,
        workers: Workers,
        board: Board,
        leases: Leases,
        changed: Callable[[], None],
        restart: Optional[Callable[[], None]],
    ) -> None:
        self._settings = settings
        self._store = store
        self._workers = workers
        self._board = board
        self._leases = leases
        self._changed = changed
        self._restart = restart
        self._updaters = {
            "model": Updater(settings.state, store),
            "agent": Updater(settings.state / AGENT_FOLDER, store, "agent", STARTS, recover=False),
        }
        self._timer: Optional[threading.Timer] = None

    @property
    def model(self) -> Updater:
        """Return the update of the model."""
        return self._updaters["model"]

    @property
    def agent(self) -> Updater:
        """Return the update of the agent itself."""
        return self._updaters["agent"]

    def files_in_use(self) -> set[str]:
        """Return the digests of all files that a bundle on the board needs."""
        return self.model.files_in_use() | self.agent.files_in_use()

    def describe(self) -> Params:
        """Return what the status tells of both updates, and of trust."""
        return {
            "update": self.model.status()._asdict(),
            "active": self._active(),
            "agent_update": self.agent.status()._asdict(),
            "trust": "any bundle" if self._settings.keys is None else f"keys in {self._settings.keys}",
        }

    def audit(self) -> None:
        """Read the active model again, every byte, and go back if the disk spoiled it."""
        try:
            done = self.model.audit()
        except (RequestError, OSError) as error:
            done = f"the active model could not be read: {error}"
        if done is not None:
            log("error", "audit", what=done)
            self._changed()

    # --- the methods ------------------------------------------------------------------------------------------

    def stage(self, request: Request) -> Params:
        """Serve `bundle.stage`."""
        digest = errors.sha256_of(request.params, "manifest_sha256")
        signatures = _signatures(request.params)
        contents = staging.stored_manifest(self._store, digest)
        signed = self._verify(self._store.path(digest), digest, signatures, request)
        downgrade = request.params.get("allow_downgrade") is True
        self._updaters[contents.kind].stage(digest, signatures, allow_downgrade=downgrade)
        log("info", "staged", bundle=digest, kind=contents.kind, sequence=contents.sequence, **signed)
        return {"bundle": digest, **signed}

    def check(self, request: Request) -> Params:
        """Serve `bundle.check`: the staged bundle must prove itself before anybody sees it."""
        bundle = errors.sha256_of(request.params, "bundle")
        updater = self._holder(bundle)
        peer = request.session.peer
        with self._leases.turn(request.session, str(peer), WAIT_S, request.cancellation, request.tell):
            self._verify_again(updater, bundle, request)
            contents = updater.begin_check(bundle)
            try:
                if contents.model is None:
                    result = self_test(updater.folder_of(bundle))
                else:
                    result = self._check_model(updater, bundle, contents.model, request)
            except RequestError as error:
                if error.code in _DEADLY:
                    updater.fail_check(bundle, error.message)
                else:
                    updater.end_check(bundle, ok=False)
                raise
            except OSError:  # the agent's own trouble, and no fault of the bundle
                updater.end_check(bundle, ok=False)
                raise
            updater.end_check(bundle, ok=result["ok"])
            return result

    def activate(self, request: Request) -> Params:
        """Serve `bundle.activate`; `confirm_within_s` asks for the application's confirmation."""
        bundle = errors.sha256_of(request.params, "bundle")
        updater = self._holder(bundle)
        confirm_s = _confirmation_s(request.params)
        self._verify_again(updater, bundle, request)
        if updater is self.agent:
            return self._activate_agent(bundle)
        generation = updater.activate(bundle, confirm=confirm_s is not None)
        if confirm_s is not None:
            self._expect_confirmation(generation, confirm_s)
        self._changed()
        log("info", "activated", bundle=bundle, generation=generation, confirm_within_s=confirm_s)
        return {"generation": generation}

    def commit(self, request: Request) -> Params:
        """Serve `bundle.commit`."""
        bundle = errors.sha256_of(request.params, "bundle")
        generation = self._holder(bundle).commit(bundle)
        log("info", "committed", bundle=bundle, generation=generation)
        return {"generation": generation}

    def confirm(self, request: Request) -> Params:
        """Serve `bundle.confirm`: the application says that it works with the activated model."""
        bundle = request.params.get("bundle") or self.model.status().current
        bundle = errors.sha256_of({"bundle": bundle}, "bundle")
        generation = self.model.commit(bundle, confirmed=True)
        log("info", "confirmed", bundle=bundle, generation=generation, by=str(request.session.peer))
        return {"generation": generation}

    def rollback(self, request: Request) -> Params:
        """Serve `bundle.rollback`."""
        to_previous = request.params.get("to_previous") is True
        why = f"rolled back by {request.session.peer}"
        current = self.model.roll_back(to_previous=to_previous, why=why)
        self._changed()
        log("info", "rolled back", current=current, by=str(request.session.peer))
        return {"current": current}

    def mark_bad(self, request: Request) -> Params:
        """Serve `bundle.mark_bad`: never again this bundle, and away from it if it is the current one."""
        bundle = errors.sha256_of(request.params, "bundle")
        why = f"{errors.printable(errors.text(request.params, 'why')[:300])} (said by {request.session.peer})"
        updater = self._holder(bundle)
        if OPERATOR not in request.session.peer.roles:
            updater = self.model  # an application speaks of models that it ran, so there are few
            updater.folder_of(bundle)
        current = updater.mark_bad(bundle, why)
        self._changed()
        log("warning", "marked bad", bundle=bundle, why=why, current=current)
        return {"current": current}

    def forgive(self, request: Request) -> Params:
        """Serve `bundle.forgive`."""
        bundle = errors.sha256_of(request.params, "bundle")
        for updater in self._updaters.values():
            updater.forgive(bundle)
        return {}

    # --- how --------------------------------------------------------------------------------------------------

    def _active(self) -> Optional[Params]:
        """Return what the current bundle's manifest says of itself; `None` without one, or if it is spoiled."""
        current = self.model.status().current
        if current is None:
            return None
        try:
            contents = self.model.contents(current)
        except (RequestError, OSError):
            return None
        if contents.model is None:
            return None
        model = {name: getattr(contents.model, name) for name in ("file", "runtime", "threads")}
        return {"name": contents.name, "sequence": contents.sequence, **model}

    def _holder(self, bundle: str) -> Updater:
        """Return the update whose bundle this is; a model's, if the board does not have it."""
        try:
            self.agent.folder_of(bundle)
        except RequestError:
            return self.model
        return self.agent

    def _verify_again(self, updater: Updater, bundle: str, request: Request) -> None:
        """Look at the signatures of a staged bundle: since then a key may have been revoked, or keys come first."""
        folder = updater.bundle_folder(bundle)
        if self._settings.keys is not None and folder.is_dir():
            self._verify(folder / manifest.FILE, bundle, staging.read_signatures(folder), request)

    def _verify(self, path: Path, digest: str, signatures: list[Any], request: Request) -> Params:
        """Have a worker look at the signatures, if this board wants any."""
        if self._settings.keys is None:
            return {"signed_by": None}
        details = {
            "manifest": str(path),
            "signatures": signatures,
            "keys": str(self._settings.keys),
        }
        job = Job("verify", "", 1, MeasuringProtocol(timeout_s=60.0), details)
        try:
            return {"signed_by": self._workers.run(job, request.cancellation, events(request))["signed_by"]}
        except RequestError as error:
            log("warning", "refused", bundle=digest, why=error.message, by=str(request.session.peer))
            raise

    def _check_model(self, updater: Updater, bundle: str, model: manifest.Model, request: Request) -> Params:
        """Compare the golden output, and the latency where one is expected."""
        self._board.require(model.runtime)
        golden = {
            "model": model.file,
            "inputs": model.golden_inputs,
            "outputs": model.golden_outputs,
            "rtol": model.rtol,
            "atol": model.atol,
        }
        details = {"folder": str(updater.folder_of(bundle)), "golden": golden}
        job = Job("check", model.runtime, model.threads, MeasuringProtocol(), details)
        for _ in range(_CHECKS):
            result = self._workers.run(job, request.cancellation, events(request))
            if not result["ok"]:
                return result
            slow = too_slow(model, result["latency_best_ms"], result["slowdown"])
            if not slow:
                return {**result, "why": ""}
        return {**result, "ok": False, "why": slow}

    def _activate_agent(self, bundle: str) -> Params:
        if self._restart is None:
            raise RequestError(
                "unsupported",
                "this agent was not started by `device-agent launch`, so it cannot be replaced",
                "provision the board; the unit file that comes with the agent starts it so",
            )
        generation = self.agent.activate(bundle)
        log("info", "restarting", bundle=bundle, generation=generation)
        self._restart()
        return {"generation": generation}

    def _expect_confirmation(self, generation: int, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = threading.Timer(seconds, self._expire, (generation, seconds))
        self._timer.daemon = True
        self._timer.start()

    def _expire(self, generation: int, seconds: float) -> None:
        try:
            self.model.expire(generation, seconds)
        except (RequestError, OSError) as error:
            log("error", "rolling back failed", why=str(error))
        log("warning", "confirmation", last=self.model.status().last)
        self._changed()


def too_slow(model: manifest.Model, best_ms: float, slowdown: float) -> str:
    """Say that a model takes longer than it may, and than a slowed processor explains; empty if it does not."""
    explained = min(slowdown, _MOST_SLOWED)
    if model.expected_p50_ms is None or best_ms <= model.expected_p50_ms * (1 + model.margin) * explained:
        return ""
    paced = f", with the processor slowed {slowdown:.1f} times" if slowdown > 1 else ""
    return f"it takes {best_ms:.3f} ms{paced}, {model.expected_p50_ms:.3f} were expected (margin {model.margin:.0%})"


def _signatures(params: Params) -> list[Any]:
    found = params.get("signatures", [])
    if isinstance(found, list) and len(found) <= MOST_SIGNATURES and all(map(_is_signature, found)):
        return [{"key": each["key"], "signature": each["signature"]} for each in found]
    raise RequestError(
        "bad_request", f"parameter 'signatures' is no list of up to {MOST_SIGNATURES} signatures"
    )


def _is_signature(entry: object) -> bool:
    parts = [entry.get(name) for name in ("key", "signature")] if isinstance(entry, dict) else [None]
    return all(isinstance(part, str) and len(part) <= _LONGEST_SIGNATURE for part in parts)


def _confirmation_s(params: Params) -> Optional[float]:
    seconds = params.get("confirm_within_s")
    if seconds is None:
        return None
    if (
        not isinstance(seconds, (int, float))
        or isinstance(seconds, bool)
        or not 0 < seconds <= _LONGEST_CONFIRMATION_S
    ):
        raise RequestError("bad_request", f"confirm_within_s is no number up to {_LONGEST_CONFIRMATION_S:g}")
    return float(seconds)
