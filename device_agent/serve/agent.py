"""What the agent can be asked: one entry of `METHODS` a request, with the role that may ask it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, Optional

from device_agent import __version__, wire
from device_agent.active import read_active
from device_agent.errors import RequestError
from device_agent.log import log
from device_agent.sensors.conditions import ConditionSensors
from device_agent.serve.board import Board
from device_agent.serve.counters import Counters
from device_agent.serve.files import Files
from device_agent.serve.hooks import Hooks
from device_agent.serve.lease import Leases
from device_agent.serve.measuring import Measuring
from device_agent.serve.peers import APPLICATION, OPERATOR, READER
from device_agent.serve.request import Params, Request, Session
from device_agent.serve.updating import Updating
from device_agent.settings import Settings
from device_agent.updates.store import FileStore, free_bytes
from device_agent.work.workers import Workers


class Agent:
    """The services of one state folder; the caller holds the folder's lock.

    Args:
        settings: how this agent is set up.
        restart: ends the process so that a newly activated agent is started; `None` if nobody would start it.
    """

    def __init__(self, settings: Settings, restart: Optional[Callable[[], None]] = None) -> None:
        self.settings = settings
        self._began = time.monotonic()
        self._sensors = ConditionSensors()
        self._changed = threading.Condition()
        workers = Workers(settings.state, user=settings.worker_user, energy_meter=settings.energy_meter)
        store = FileStore(settings.state, settings.quota_bytes, self._files_in_use)
        hooks = Hooks(settings.hooks, settings.state)
        leases = Leases()
        self.board = Board(workers)
        self.counters = Counters()
        self.files = Files(store)
        self.updating = Updating(settings, store, workers, self.board, leases, self._tell_change, restart)
        self.measuring = Measuring(store, workers, self.board, hooks, leases)
        hooks.recover(lambda warning: log("warning", "hook", what=warning))

    def serve(self, method: str, request: Request) -> Params:
        """Do one request.

        Raises:
            RequestError: `bad_request` for an unknown method, `not_allowed`, or what the method raises.
        """
        known = METHODS.get(method)
        if known is None:
            raise RequestError("bad_request", f"this agent has no method {method[:100]!r}")
        request.session.peer.require(known.role, method)
        return known.serve(self, request)

    def forget(self, session: Session) -> None:
        """Give back the lease of a connection that is over."""
        self.measuring.forget(session)

    def status(self, _: Request) -> Params:
        """Serve `status`: what the agent knows about the board and about its state folder."""
        return {
            "agent_version": __version__,
            "protocol": wire.PROTOCOL,
            "uptime_s": time.monotonic() - self._began,
            **self.board.facts(),
            "conditions": self._sensors.read(),
            "disk_free_bytes": free_bytes(self.settings.state),
            **self.updating.describe(),
            **self.measuring.describe(),
        }

    def metrics(self, request: Request) -> Params:
        """Serve `metrics`: the same for Prometheus, as text."""
        from device_agent.serve.metrics import render  # noqa: PLC0415 - most boards are never asked

        return {"text": render(self.status(request), self.counters)}

    def active(self, _: Request) -> Params:
        """Serve `active`: where the active model is."""
        return read_active(self.settings.state)

    def watch(self, request: Request) -> Params:
        """Serve `watch`: answer as soon as the generation is another one than `generation`."""
        known = request.params.get("generation")
        request.cancellation.on_cancel(self._tell_change)
        try:
            with self._changed:
                while read_active(self.settings.state)["generation"] == known:
                    request.cancellation.raise_if_cancelled()
                    self._changed.wait()
                return read_active(self.settings.state)
        finally:
            request.cancellation.on_cancel(None)

    def _files_in_use(self) -> set[str]:
        return self.updating.files_in_use()

    def _tell_change(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Method(NamedTuple):
    """How a request is served, and who may make it."""

    serve: Callable[[Agent, Request], Params]
    role: str


METHODS: dict[str, Method] = {
    "status": Method(Agent.status, READER),
    "metrics": Method(Agent.metrics, READER),
    "active": Method(Agent.active, READER),
    "watch": Method(Agent.watch, READER),
    "files.missing": Method(lambda agent, request: agent.files.missing(request), OPERATOR),
    "files.put": Method(lambda agent, request: agent.files.put(request), OPERATOR),
    "files.collect": Method(lambda agent, request: agent.files.collect(request), OPERATOR),
    "lease.acquire": Method(lambda agent, request: agent.measuring.acquire(request), OPERATOR),
    "lease.release": Method(lambda agent, request: agent.measuring.release(request), OPERATOR),
    "measure": Method(lambda agent, request: agent.measuring.measure(request), OPERATOR),
    "measure_layers": Method(lambda agent, request: agent.measuring.measure_layers(request), OPERATOR),
    "bundle.stage": Method(lambda agent, request: agent.updating.stage(request), OPERATOR),
    "bundle.check": Method(lambda agent, request: agent.updating.check(request), OPERATOR),
    "bundle.activate": Method(lambda agent, request: agent.updating.activate(request), OPERATOR),
    "bundle.commit": Method(lambda agent, request: agent.updating.commit(request), OPERATOR),
    "bundle.rollback": Method(lambda agent, request: agent.updating.rollback(request), OPERATOR),
    "bundle.forgive": Method(lambda agent, request: agent.updating.forgive(request), OPERATOR),
    "bundle.confirm": Method(lambda agent, request: agent.updating.confirm(request), APPLICATION),
    "bundle.mark_bad": Method(lambda agent, request: agent.updating.mark_bad(request), APPLICATION),
}
