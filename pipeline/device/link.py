"""Requests and answers over a transport: several at a time, each with a deadline, all ended when it breaks.

One thread reads frames and hands them to the request they belong to, another writes; so a request can wait
with a deadline whatever state the streams are in.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, BinaryIO

from device_agent.wire import PROTOCOL, WireError, read_frame, write_frame
from pipeline import __version__
from pipeline.device.transport import Transport
from pipeline.errors import AgentError, LinkLostError, TransportError

Json = dict[str, Any]
OnEvent = Callable[[Json], None]

HELLO_S = 60.0
_HELLO = 0  # the id under which the answer to the hello is filed
_WRITER_END_S = 2.0
_TEXT_BYTES = 200
_SPOILED = "bad_frame"  # what the agent calls a stream that it does not understand


class Link:
    """An open connection to one agent.

    Raises:
        TransportError: the agent cannot be reached, does not answer, or speaks another protocol.
        AgentError: the agent refuses to serve (its state folder is in use, for one).
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._numbers = itertools.count(1)
        self._inboxes: dict[int, queue.Queue[Json | None]] = {}
        self._turn = threading.Lock()
        self._outbox: queue.Queue[tuple[Json, bytes] | None] = queue.Queue()
        self._broken: str | None = None
        source, sink = transport.open()
        self._reader = threading.Thread(target=self._read, args=(source,), daemon=True)
        self._writer = threading.Thread(target=self._write, args=(sink,), daemon=True)
        inbox = self._expect(_HELLO)
        self._reader.start()
        self._writer.start()
        try:
            self.agent_version = self._greet(inbox)
        except BaseException:
            self.close()
            raise

    def start(self, method: str, params: Json, payload: bytes = b"") -> Pending:
        """Send a request without waiting for its answer.

        Raises:
            TransportError: the link is broken or closed.
        """
        number = next(self._numbers)
        inbox = self._expect(number)
        self._outbox.put(({"id": number, "method": method, "params": params}, payload))
        return Pending(self, number, method, inbox)

    def close(self) -> None:
        """End the link and the agent's service; closing twice does no harm."""
        with self._turn:
            self._broken = self._broken or "the link is closed"
        self._outbox.put(None)
        self._writer.join(timeout=_WRITER_END_S)
        self._transport.close()
        self._reader.join(timeout=_WRITER_END_S)

    def cancel(self, number: int) -> None:
        """Tell the agent that nobody waits for this answer any more."""
        self._outbox.put(({"cancel": number}, b""))

    def forget(self, number: int) -> None:
        """Drop a request's inbox; what still comes for it is thrown away."""
        with self._turn:
            self._inboxes.pop(number, None)

    def failure(self, what: str) -> LinkLostError:
        """Describe a broken link, with the agent's exit status and last words."""
        words = self._transport.last_words()
        text = f"{self._transport.name}: {what}" + (f"; {words}" if words else "")
        return LinkLostError(text, hint="run the command again; a run that was recorded can be resumed")

    @property
    def is_lost(self) -> bool:
        """Whether the link is of no more use."""
        return self._broken is not None

    @property
    def broken(self) -> str:
        """Why the link is of no more use."""
        return self._broken or "the link broke"

    def _greet(self, inbox: queue.Queue[Json | None]) -> str:
        hello = {"protocols": [PROTOCOL], "client": f"pipeline {__version__}"}
        self._outbox.put(({"hello": hello}, b""))
        try:
            answer = inbox.get(timeout=HELLO_S)
        except queue.Empty:
            raise self.failure(f"no answer to the hello within {HELLO_S:g} s") from None
        self.forget(_HELLO)
        if answer is None:
            raise self.failure(self.broken)
        if "error" in answer:
            raise agent_error(answer["error"])
        agreed = answer.get("hello")
        if not isinstance(agreed, dict) or agreed.get("protocol") != PROTOCOL:
            raise TransportError(
                f"{self._transport.name}: the agent does not speak protocol {PROTOCOL}",
                hint="`pipeline device provision` installs the agent of this version",
            )
        return str(agreed.get("agent_version", "unknown"))

    def _expect(self, number: int) -> queue.Queue[Json | None]:
        inbox: queue.Queue[Json | None] = queue.Queue()
        with self._turn:
            if self._broken is None:
                self._inboxes[number] = inbox
        if self._broken is not None:
            raise self.failure(self.broken)
        return inbox

    def _read(self, source: BinaryIO) -> None:
        reason = "the agent closed the connection"
        try:
            with source:
                _refuse_text(source)
                while (frame := read_frame(source)) is not None:
                    self._deliver(frame.header)
        except (WireError, OSError, ValueError) as error:
            reason = f"the connection broke: {error}"
        self._break(reason)

    def _deliver(self, header: Json) -> None:
        number = header.get("id")
        with self._turn:
            # An error without an id is about the connection: it concerns everyone who waits.
            everyone = number is None and "error" in header and _HELLO not in self._inboxes
            target = number if isinstance(number, int) else _HELLO if number is None else -1
            inboxes = list(self._inboxes.values()) if everyone else [self._inboxes.get(target)]
        for inbox in inboxes:
            if inbox is not None:
                inbox.put(header)

    def _write(self, sink: BinaryIO) -> None:
        try:
            while (item := self._outbox.get()) is not None:
                write_frame(sink, *item)
        except (WireError, OSError, ValueError) as error:
            self._break(f"the connection broke: {error}")
        finally:
            with contextlib.suppress(OSError):
                sink.close()

    def _break(self, reason: str) -> None:
        with self._turn:
            self._broken = self._broken or reason
            waiting = list(self._inboxes.values())
            self._inboxes.clear()
        for inbox in waiting:
            inbox.put(None)


def _refuse_text(source: BinaryIO) -> None:
    """Tell frames, whose first byte is 0 since their lengths are bounded, from what a login shell prints.

    Raises:
        WireError: saying what was printed.
    """
    peek = getattr(source, "peek", None)
    start = peek(1)[:_TEXT_BYTES] if peek else b""
    if start and start[0] != 0:
        text = start.decode("utf-8", "replace").strip()
        raise WireError(
            f"the board printed text where its agent should answer (does .bashrc print?): {text!r}"
        )


class Pending:
    """A request under way."""

    def __init__(self, link: Link, number: int, method: str, inbox: queue.Queue[Json | None]) -> None:
        self._link = link
        self._number = number
        self._method = method
        self._inbox = inbox

    def drop(self) -> None:
        """Wait for this answer no more."""
        self._link.forget(self._number)

    def result(self, silence_s: float, on_event: OnEvent | None = None) -> Json:
        """Wait for the answer; an interrupt (Ctrl-C) cancels the request on the agent.

        Args:
            silence_s: how long the answer may take, in seconds; where events are heard, the time between two of them.
            on_event: is called with every event, on this thread.

        Raises:
            AgentError: the agent answered with an error.
            TransportError: it was silent for too long, or the link broke; the link is closed then.
        """
        try:
            deadline_s = time.monotonic() + silence_s
            while True:
                if on_event is not None:  # then events are signs of life
                    deadline_s = time.monotonic() + silence_s
                header = self._next(deadline_s - time.monotonic(), silence_s)
                if "result" in header or "error" in header:
                    return self._unpack(header)
                if on_event is not None:
                    on_event(header.get("event") or {})
        except (KeyboardInterrupt, SystemExit):
            self._link.cancel(self._number)
            raise
        finally:
            self._link.forget(self._number)

    def _next(self, left_s: float, silence_s: float) -> Json:
        try:
            header = self._inbox.get(timeout=max(left_s, 0.0))
        except queue.Empty:
            failure = self._link.failure(f"no sign of life for {silence_s:g} s during {self._method!r}")
            self._link.close()
            raise failure from None
        if header is None:
            raise self._link.failure(f"{self._link.broken} during {self._method!r}")
        return header

    def _unpack(self, header: Json) -> Json:
        if "error" in header:
            error = agent_error(header["error"])
            if error.code == _SPOILED:  # we send whole frames only: it was cut on its way
                raise self._link.failure(f"the agent heard but a part: {error.message}") from error
            raise error
        result = header["result"]
        if not isinstance(result, dict):
            raise self._link.failure(f"the answer to {self._method!r} is not an object")
        return result


def agent_error(error: object) -> AgentError:
    """Return the exception for the `error` object of an answer."""
    fields = error if isinstance(error, dict) else {}
    message = str(fields.get("message") or "the agent gave no reason")
    return AgentError(message, code=str(fields.get("code") or "internal"), hint=str(fields.get("hint") or ""))
