"""A small client of the daemon's socket, for the commands on the board and for applications."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any, Optional

from device_agent import __version__
from device_agent.errors import RequestError
from device_agent.wire import PROTOCOL, Frame, WireError, encode_frame, read_frame

OnEvent = Callable[[dict[str, Any]], None]


class Client:
    """One connection to an agent; a context manager that closes it.

    Raises:
        RequestError: what the agent answers, or `bad_frame` when it breaks off.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._stream = connection.makefile("rb")
        self._number = 0
        self.hello = self._exchange(
            {"hello": {"protocols": [PROTOCOL], "client": f"device-agent {__version__}"}}
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._stream.close()
        self._socket.close()

    def ask(
        self, method: str, params: Optional[dict[str, Any]] = None, on_event: Optional[OnEvent] = None
    ) -> dict[str, Any]:
        """Make one request, hear its events, return its result."""
        self._number += 1
        answer = self._exchange({"id": self._number, "method": method, "params": params or {}})
        while "event" in answer:
            if on_event is not None:
                on_event(answer["event"])
            answer = self._read().header
        self._raise(answer)
        result: dict[str, Any] = answer["result"]
        return result

    def _exchange(self, header: dict[str, Any]) -> dict[str, Any]:
        try:
            self._socket.sendall(encode_frame(header))
        except OSError as error:
            raise RequestError("bad_frame", f"the agent is gone: {error}") from error
        answer = self._read().header
        self._raise(answer)
        return answer

    def _read(self) -> Frame:
        try:
            frame = read_frame(self._stream)
        except (WireError, OSError) as error:
            raise RequestError("bad_frame", f"the agent broke off: {error}") from error
        if frame is None:
            raise RequestError("bad_frame", "the agent closed the connection")
        return frame

    @staticmethod
    def _raise(answer: dict[str, Any]) -> None:
        if "error" in answer:
            error = answer["error"]
            raise RequestError(error["code"], error["message"], error.get("hint", ""))
