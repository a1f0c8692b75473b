"""Serves one host over a pair of byte streams: hello, then requests, several at a time.

Requests about files are done one after the other in the order they came, so that a host may send the chunks
of an upload without waiting for each answer; every other request has a thread of its own.
"""

from __future__ import annotations

import contextlib
import queue
import sys
import threading
from typing import Any, BinaryIO, Optional

from device_agent import __version__
from device_agent.agent import METHODS, Agent, Request
from device_agent.errors import RequestError, from_os_error
from device_agent.wire import PROTOCOL, Frame, WireError, read_frame, write_frame
from device_agent.workers import Cancellation

EXIT_DONE = 0
EXIT_BAD_PEER = 3
MOST_REQUESTS = 32
_QUEUED_CHUNKS = 16  # of at most 1 MiB each; then the host has to wait


class Server:
    """One connection; `serve` returns when the host is gone, with no worker left running."""

    def __init__(self, agent: Agent, source: BinaryIO, sink: BinaryIO) -> None:
        self._agent = agent
        self._source = source
        self._sink = sink
        self._sink_turn = threading.Lock()
        self._running: dict[Any, Cancellation] = {}
        self._running_turn = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._file_requests: queue.Queue[Optional[tuple[Frame, Cancellation]]] = queue.Queue(_QUEUED_CHUNKS)

    def serve(self) -> int:
        """Serve until the source ends; returns the exit status of the agent."""
        filer = threading.Thread(target=self._serve_files, name="files", daemon=True)
        filer.start()
        try:
            if not self._greet():
                return EXIT_BAD_PEER
            while (frame := read_frame(self._source)) is not None:
                self._take(frame)
            return EXIT_DONE
        except WireError as error:
            self._refuse("bad_frame", f"the connection is closed: {error}")
            return EXIT_BAD_PEER
        finally:
            self._end()

    def _greet(self) -> bool:
        """Answer the hello; a host that says none or shares no protocol is refused."""
        frame = read_frame(self._source)
        if frame is None:
            return True
        hello = frame.header.get("hello")
        offered = hello.get("protocols") if isinstance(hello, dict) else None
        if not isinstance(offered, list):
            self._refuse("bad_frame", "the first frame is not a hello")
        elif PROTOCOL not in offered:
            self._refuse(
                "protocol_mismatch",
                f"agent {__version__} speaks protocol {PROTOCOL}, the host offers {offered[:10]}",
                "install the agent that belongs to this version of the pipeline",
            )
        else:
            self._send({"hello": {"protocol": PROTOCOL, "agent_version": __version__}})
            return True
        return False

    def _take(self, frame: Frame) -> None:
        """Start one request or cancel one."""
        header = frame.header
        if "cancel" in header:
            self._cancel(header["cancel"])
            return
        number, method = header.get("id"), header.get("method")
        if not isinstance(number, int) or not isinstance(method, str):
            raise WireError("a frame is neither a request with id and method nor a cancel")
        cancellation = Cancellation()
        with self._running_turn:
            fault = self._cannot_take(number, method)
            if fault is None:
                self._running[number] = cancellation
        if fault is not None:
            self._send({"id": number, "error": fault.as_dict()})
        elif method.startswith("files."):
            self._file_requests.put((frame, cancellation))
        else:
            self._start(frame, cancellation)

    def _cannot_take(self, number: int, method: str) -> Optional[RequestError]:
        if method not in METHODS:
            return RequestError("bad_request", f"this agent has no method {method[:100]!r}")
        if number in self._running:
            raise WireError(f"request {number} is under way already")
        if len(self._running) >= MOST_REQUESTS + _QUEUED_CHUNKS:
            return RequestError("busy", f"{len(self._running)} requests are under way", "ask again later")
        return None

    def _start(self, frame: Frame, cancellation: Cancellation) -> None:
        thread = threading.Thread(target=self._answer, args=(frame, cancellation), daemon=True)
        self._threads = {other for other in self._threads if other.is_alive()} | {thread}
        thread.start()

    def _serve_files(self) -> None:
        while (item := self._file_requests.get()) is not None:
            self._answer(*item)

    def _answer(self, frame: Frame, cancellation: Cancellation) -> None:
        """Do one request and send its result or its error."""
        number, method = frame.header["id"], frame.header["method"]
        answer: dict[str, Any]
        try:
            cancellation.raise_if_cancelled()
            params = frame.header.get("params", {})
            if not isinstance(params, dict):
                raise RequestError("bad_request", "params is not an object")
            request = Request(
                params, frame.payload, lambda event: self._send({"id": number, "event": event}), cancellation
            )
            answer = {"result": METHODS[method](self._agent, request)}
        except RequestError as error:
            answer = {"error": error.as_dict()}
        except OSError as error:
            answer = {"error": from_os_error(error).as_dict()}
        except Exception as error:  # noqa: BLE001 - a fault of the agent ends one request, not the agent
            print(f"device-agent: {method}: {error!r}", file=sys.stderr, flush=True)
            answer = {"error": RequestError("internal", f"the agent failed at {method}: {error!r}").as_dict()}
        with self._running_turn:
            self._running.pop(number, None)
        self._send({"id": number, **answer})

    def _cancel(self, number: object) -> None:
        with self._running_turn:
            cancellation = self._running.get(number)
        if cancellation is not None:
            cancellation.cancel()

    def _refuse(self, code: str, message: str, hint: str = "") -> None:
        self._send({"error": RequestError(code, message, hint).as_dict()})

    def _send(self, header: dict[str, Any]) -> None:
        """Send one frame; a host that is gone is noticed by the reader, not here."""
        with self._sink_turn, contextlib.suppress(OSError, ValueError):
            try:
                write_frame(self._sink, header)
            except WireError as error:
                fault = RequestError("internal", f"an answer could not be sent: {error}")
                write_frame(self._sink, {"id": header.get("id"), "error": fault.as_dict()})

    def _end(self) -> None:
        """Cancel everything; wait for the requests, whose workers are killed by now."""
        with self._running_turn:
            waiting = list(self._running.values())
        for cancellation in waiting:
            cancellation.cancel()
        for thread in self._threads:
            thread.join(timeout=5)
