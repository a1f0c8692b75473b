"""One request under way, and the connection it came by."""

from __future__ import annotations

from typing import Any, NamedTuple

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
