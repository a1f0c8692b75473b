"""Reads the lines of a worker, trusting nothing in them."""

from __future__ import annotations

import json
import time
from typing import Any, Optional

from device_agent.work.pipes import TooMuchError

MOST_MESSAGES = 200_000  # of one worker: two a model of a table, and a few a second
MOST_EVENTS_A_SECOND = 100  # told to whoever asked; more are dropped
_MOST_CHARACTERS = 2000
_KINDS = ("event", "timing", "result", "error", "confined")

Message = dict[str, Any]


class Messages:
    """The messages of one worker."""

    def __init__(self) -> None:
        self._count = 0
        self._second = 0
        self._told = 0

    def read(self, line: bytes) -> Optional[Message]:
        """Return one message: an object with one of event, timing, result, error and confined; `None` if dropped.

        Raises:
            ValueError: it is none.
            TooMuchError: so many came that nobody is to read them.
        """
        self._count += 1
        if self._count > MOST_MESSAGES:
            raise TooMuchError(f"it answered with more than {MOST_MESSAGES} lines")
        try:
            message = json.loads(line, parse_constant=_refuse)
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
        if not isinstance(message, dict) or len(message) != 1 or not _is_whole(*next(iter(message.items()))):
            raise ValueError("it is none of the messages that a worker sends")
        return message if self._may_be_told(message) else None

    def _may_be_told(self, message: Message) -> bool:
        """Drop progress that comes too fast; what a table's order hangs on is never dropped."""
        if "phase" not in message.get("event", ()):
            return True
        second = int(time.monotonic())
        self._told = 1 if second != self._second else self._told + 1
        self._second = second
        return self._told <= MOST_EVENTS_A_SECOND


def error_of(message: Message) -> dict[str, str]:
    """Return the arguments of a `RequestError` from an error message; texts are cut to a readable length."""
    error = message["error"]
    return {key: str(error.get(key, ""))[:_MOST_CHARACTERS] for key in ("code", "message", "hint")}


def _is_whole(kind: str, value: object) -> bool:
    if kind not in _KINDS:
        return False
    if kind == "confined":
        return isinstance(value, list) and all(isinstance(name, str) for name in value)
    if kind == "timing":
        return isinstance(value, list) and [type(part) for part in value] == [int, dict]
    return isinstance(value, dict)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
