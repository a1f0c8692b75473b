"""Serves one connection: hello, then requests, several at a time.

Requests about files are done one after the other in the order they came, so that a host may send the chunks
of an upload without waiting for each answer; every other request has a thread of its own.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Any, Optional

from device_agent import __version__
from device_agent.errors import RequestError, from_os_error
from device_agent.log import log
from device_agent.serve.peers import OPERATOR
from device_agent.serve.request import Request, Service, Session
from device_agent.serve.streams import Stream
from device_agent.wire import MAX_PAYLOAD, PROTOCOL, Frame, WireError, read_frame, write_frame
from device_agent.work.workers import Cancellation

EXIT_DONE = 0
EXIT_BAD_PEER = 3
MOST_REQUESTS = 32
_QUEUED_CHUNKS = 16  # of at most 1 MiB each; then the host has to wait
_MOST_HEADER = 1024 * 1024
_MOST_HEADER_OF_READERS = 4 * 1024
_MOST_REQUESTS_OF_READERS = 8
_END_S = 5.0


class Server:
    """One connection; `serve` returns when the host is gone, with no worker of its own left running."""

    def __init__(self, service: Service, stream: Stream, session: Session) -> None:
        self._service = service
        self._stream = stream
        self._session = session
        self._sink_turn = threading.Lock()
        self._running: dict[int, Cancellation] = {}
        self._running_turn = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._file_requests: queue.Queue[Optional[tuple[Frame, Cancellation]]] = queue.Queue(_QUEUED_CHUNKS)
        self._filer: Optional[threading.Thread] = None
        operator = OPERATOR in session.peer.roles
        self._most_header = _MOST_HEADER if operator else _MOST_HEADER_OF_READERS
        self._most_payload = MAX_PAYLOAD if operator else 0
        self._most_requests = MOST_REQUESTS + _QUEUED_CHUNKS if operator else _MOST_REQUESTS_OF_READERS

    def serve(self) -> int:
        """Serve until the stream ends; returns the exit status for an agent that serves nobody else."""
        try:
            if not self._greet():
                return EXIT_BAD_PEER
            while (frame := self._next_frame()) is not None:
                self._take(frame)
            return EXIT_DONE
        except (WireError, TimeoutError) as error:
            log("warning", "bad peer", peer=str(self._session.peer), why=str(error))
            self._refuse("bad_frame", f"the connection is closed: {error}")
            return EXIT_BAD_PEER
        except OSError:
            return EXIT_DONE  # the peer is gone without a word
        finally:
            self._end()

    def _next_frame(self) -> Optional[Frame]:
        self._stream.wait()
        return read_frame(self._stream, self._most_header, self._most_payload)

    def _greet(self) -> bool:
        """Answer the hello; a host that says none or shares no protocol is refused."""
        frame = self._next_frame()
        if frame is None:
            return True
        hello = frame.header.get("hello")
        offered = hello.get("protocols") if isinstance(hello, dict) else None
        if not isinstance(offered, list):
            self._refuse("bad_frame", "the first frame is not a hello")
        elif PROTOCOL not in offered:
            self._refuse(
                "protocol_mismatch",
                f"agent {__version__} speaks protocol {PROTOCOL}, the host offers {str(offered)[:100]}",
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
        if not isinstance(number, int) or isinstance(number, bool) or not isinstance(method, str):
            raise WireError("a frame is neither a request with id and method nor a cancel")
        cancellation = Cancellation()
        with self._running_turn:
            if number in self._running:
                raise WireError(f"request {number} is under way already")
            full = len(self._running) >= self._most_requests
            if not full:
                self._running[number] = cancellation
        if full or not self._begin(frame, cancellation):
            fault = RequestError("busy", f"{len(self._running)} requests are under way", "ask again later")
            self._send({"id": number, "error": fault.as_dict()}, number)

    def _begin(self, frame: Frame, cancellation: Cancellation) -> bool:
        """Have a request served; False when the system has no thread left for it."""
        try:
            if frame.header["method"].startswith("files."):
                self._queue(frame, cancellation)
            else:
                self._start(frame, cancellation)
        except RuntimeError:
            return False
        return True

    def _start(self, frame: Frame, cancellation: Cancellation) -> None:
        thread = threading.Thread(target=self._answer, args=(frame, cancellation), daemon=True)
        thread.start()
        self._threads = {other for other in self._threads if other.is_alive()} | {thread}

    def _queue(self, frame: Frame, cancellation: Cancellation) -> None:
        if self._filer is None:
            filer = threading.Thread(target=self._serve_files, name="files", daemon=True)
            filer.start()
            self._filer = filer
        self._file_requests.put((frame, cancellation))

    def _serve_files(self) -> None:
        while (item := self._file_requests.get()) is not None:
            self._answer(*item)

    def _answer(self, frame: Frame, cancellation: Cancellation) -> None:
        """Do one request and send its result or its error."""
        number, method = frame.header["id"], frame.header["method"]
        answer: dict[str, Any]
        try:
            answer = {"result": self._result(number, method, frame, cancellation)}
        except RequestError as error:
            answer = {"error": error.as_dict()}
        except OSError as error:
            answer = {"error": from_os_error(error).as_dict()}
        except Exception as error:  # noqa: BLE001 - a fault of the agent ends one request, not the agent
            log("error", "fault", method=method, error=repr(error))
            answer = {"error": RequestError("internal", f"the agent failed at {method}: {error!r}").as_dict()}
        if "error" in answer:
            self._service.counters.add("errors", answer["error"]["code"])
        self._send({"id": number, **answer}, number)

    def _result(self, number: int, method: str, frame: Frame, cancellation: Cancellation) -> dict[str, Any]:
        cancellation.raise_if_cancelled()
        params = frame.header.get("params", {})
        if not isinstance(params, dict):
            raise RequestError("bad_request", "params is not an object")
        request = Request(
            params,
            frame.payload,
            self._session,
            lambda event: self._send({"id": number, "event": event}),
            cancellation,
        )
        result = self._service.serve(method, request)
        self._service.counters.add("requests", method)
        return result

    def _cancel(self, number: object) -> None:
        if not isinstance(number, int):
            raise WireError("a cancel names no request")
        with self._running_turn:
            cancellation = self._running.get(number)
        if cancellation is not None:
            cancellation.cancel()

    def _refuse(self, code: str, message: str, hint: str = "") -> None:
        self._send({"error": RequestError(code, message, hint).as_dict()})

    def _send(self, header: dict[str, Any], ended: Optional[int] = None) -> None:
        """Send one frame; a host that is gone is noticed by the reader, one that takes nothing is let go.

        A request that ended is under way until it is the turn of its answer: whoever reads none cannot begin more.
        """
        with self._sink_turn:
            if ended is not None:
                with self._running_turn:
                    self._running.pop(ended, None)
            try:
                write_frame(self._stream, header)
            except WireError as error:
                fault = RequestError("internal", f"an answer could not be sent: {error}")
                with contextlib.suppress(OSError, ValueError):
                    write_frame(self._stream, {"id": header.get("id"), "error": fault.as_dict()})
            except (OSError, ValueError):
                self._stream.close()

    def _end(self) -> None:
        """Cancel everything; wait for the requests, whose workers are killed by now."""
        with self._running_turn:
            waiting = list(self._running.values())
        for cancellation in waiting:
            cancellation.cancel()
        self._service.forget(self._session)
        if self._filer is not None:
            with contextlib.suppress(queue.Empty):
                while True:  # what waits there is cancelled; and there must be room for the end
                    self._file_requests.get_nowait()
            self._file_requests.put(None)
            self._threads.add(self._filer)
        for thread in self._threads:
            thread.join(timeout=_END_S)
