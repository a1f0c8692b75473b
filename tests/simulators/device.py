"""A device that exists in memory only, behind the interface of the host's client.

    device = SimulatedDevice()                              a board of its own
    board = SimulatedBoard(Hardware(memory_bytes=64_000_000), Behaviour(latency_ms=lambda *_: 4.0))
    board.faults.cut_power(method="bundle.commit")
    device = SimulatedDevice(board)                         one connection; others are others of these

It is the client itself, on a link that asks the board in this process. What a real board does beyond the protocol
(a wire's bytes, processes, files) is not simulated; tests/device/test_device_contract.py holds both to the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from behaviour import Behaviour, PowerSensor
from board import Hardware, SimulatedBoard
from heat import Cooling

from device_agent import __version__
from device_agent.errors import RequestError
from pipeline.device.client import DeviceClient
from pipeline.device.link import Json, OnEvent, agent_error
from pipeline.device.retry import ONCE
from pipeline.errors import AgentError, TransportError

__all__ = ["Behaviour", "Cooling", "Hardware", "PowerSensor", "SimulatedBoard", "SimulatedDevice"]


class SimulatedDevice(DeviceClient):
    """A connection of one host to a simulated board."""

    def __init__(self, board: SimulatedBoard | None = None, who: str = "a host") -> None:
        self.board = board or SimulatedBoard()
        self._patience = ONCE
        self._open: Any = SimulatedLink(self.board, who)


class SimulatedLink:
    """Stands where the client has its connection, `pipeline.device.link.Link`."""

    agent_version = __version__
    is_lost = False  # nobody opens it again

    def __init__(self, board: SimulatedBoard, who: str) -> None:
        self._board = board
        self._session = board.connect(who)

    def start(self, method: str, params: Json, payload: bytes = b"") -> Answer:
        """Send a request; the board serves it when it is waited for, those about files at once."""
        self._session.require()
        sent = json.loads(json.dumps(params, allow_nan=False))

        def serve(tell: OnEvent) -> Json:
            result = self._board.serve(self._session, method, sent, payload, tell)
            answered: Json = json.loads(json.dumps(result, allow_nan=False))
            return answered

        return Answer(serve, at_once=method.startswith("files."))

    def close(self) -> None:
        """End the connection."""
        self._board.disconnect(self._session, "the link is closed")


class Answer:
    """A request under way, as `pipeline.device.link.Pending`."""

    def __init__(self, serve: Callable[[OnEvent], Json], *, at_once: bool) -> None:
        self._serve = serve
        self._outcome: Json | AgentError | TransportError | None = None
        if at_once:
            self._outcome = self._settle(lambda _: None)

    def drop(self) -> None:
        """Wait for this answer no more."""

    def result(self, silence_s: float, on_event: OnEvent | None = None) -> Json:
        """Return the answer, or raise the error that came in its place."""
        if self._outcome is None:
            self._outcome = self._settle(on_event or (lambda _: None))
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

    def _settle(self, tell: OnEvent) -> Json | AgentError | TransportError:
        try:
            return self._serve(tell)
        except RequestError as error:
            return agent_error(error.as_dict())
        except TransportError as error:
            return error
