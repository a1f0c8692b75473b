"""One request under way, the connection it came by, and what requests are made to."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from device_agent.serve.counters import Counters
from device_agent.serve.peers import Peer
from device_agent.work.workers import Cancellation, Listen

Params = dict[str, Any]


class Session:
    """One connection: whose it is. Leases belong to sessions and end with them."""

    def __init__(self, peer: Peer) -> None:
        self.peer = peer


class Request(NamedTuple):
    """A request's parameters and payload, who asks, and how to tell progress and be cancelled."""

    params: Params
    payload: bytes
    session: Session
    tell: Listen
    cancellation: Cancellation


class Service(Protocol):
    """What a connection leads to: the agent, or the installer."""

    counters: Counters

    def serve(self, method: str, request: Request) -> Params:
        """Do one request.

        Raises:
            RequestError: it cannot be done; the connection stays.
        """
        ...

    def forget(self, session: Session) -> None:
        """Let go of what a connection held, for it is over; its requests are cancelled by now."""
        ...
