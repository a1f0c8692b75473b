"""Agents that are not what they should be: run as `fake_agent.py BEHAVIOUR` in the place of `device-agent stdio`."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

from device_agent.wire import encode_frame, read_frame

_ESCAPES = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\r\n[bold]markup[/]\u202e"


def send(header: dict[str, Any]) -> None:
    sys.stdout.buffer.write(encode_frame(header))
    sys.stdout.buffer.flush()


def say(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def hear() -> dict[str, Any]:
    frame = read_frame(sys.stdin.buffer)
    if frame is None:
        sys.exit(0)
    return frame.header


def refuse(protocol: int) -> None:
    """Do what an agent of another protocol does with a host that does not speak it."""
    offered = hear()["hello"]["protocols"]
    send(
        {
            "error": {
                "code": "protocol_mismatch",
                "message": f"agent 9.9.9 speaks protocol {protocol}, the host offers {offered}",
                "hint": "install the agent that belongs to this version of the pipeline",
            }
        }
    )


def greet(protocol: object = 1, version: object = "9.9.9") -> None:
    hear()
    send({"hello": {"protocol": protocol, "agent_version": version}})


def answering(answer: Callable[[int], object], *, stays: bool = False) -> Callable[[], None]:
    """Greet properly, then answer a request so, and end; or stay and answer every one."""

    def behave() -> None:
        greet()
        answer(hear().get("id", 0))
        while stays:
            answer(hear().get("id", 0))

    return behave


def endless(first: bytes) -> Callable[[], None]:
    def behave() -> None:
        say(first)
        while True:
            say(bytes(65536))

    return behave


def with_result(result: Any, *, stays: bool = False) -> Callable[[], None]:
    return answering(lambda number: send({"id": number, "result": result}), stays=stays)


def raw_answer(text: str) -> Callable[[], None]:
    def answer(number: int) -> None:
        data = text.replace("ID", str(number)).encode("utf-8", "surrogatepass")
        say(struct.pack(">II", len(data), 0) + data)

    return answering(answer)


def error_of(error: Any) -> Callable[[], None]:
    return answering(lambda number: send({"id": number, "error": error}))


def die(status: int, words: str) -> None:
    hear()
    sys.stderr.write(words)
    sys.exit(status)


def events_for_ever(number: int) -> None:
    while True:
        send({"id": number, "event": {"phase": "measure", "done": 1, "of": 2}})
        time.sleep(0.001)


BEHAVIOURS: dict[str, Callable[[], object]] = {
    # other protocols
    "protocol 0": lambda: refuse(0),
    "protocol 2": lambda: refuse(2),
    "greets with 0": lambda: greet(0),
    "greets with 2": lambda: greet(2),
    "greets with text": lambda: greet("1"),
    # noise
    "silent": lambda: time.sleep(600),
    "text first": lambda: (say(b"Welcome to the board!\n"), time.sleep(600)),
    "ends at once": lambda: sys.exit(0),
    "dies": lambda: die(3, "disk is on fire\n"),
    "dies with escapes": lambda: die(3, _ESCAPES),
    "dies with much text": lambda: die(3, "x" * 3_000_000),
    "zeros": endless(b""),
    "half a frame": lambda: say(struct.pack(">II", 100, 0) + b"{"),
    "huge header": endless(struct.pack(">II", 2**32 - 1, 0)),
    "huge payload": endless(struct.pack(">II", 2, 2**32 - 1) + b"{}"),
    "largest header": endless(struct.pack(">II", 8 * 1024 * 1024, 0)),
    # hello
    "hello is a list": lambda: (hear(), send({"hello": []})),
    "hello is deep": lambda: (hear(), say(struct.pack(">II", 200_000, 0) + b"[" * 200_000)),
    "version is odd": lambda: (
        greet(1, {"a": [1, _ESCAPES]}),
        hear(),
        send({"id": 1, "result": {"version": 3}}),
    ),
    # answers
    "hangs up when asked": lambda: (greet(), hear()),
    "result is a list": with_result([], stays=True),
    "result is empty": with_result({}),
    "result is of other types": with_result(
        {"agent_version": 1, "protocol": "x", "board": [], "runtimes": 3}
    ),
    "not a number": raw_answer('{"id": ID, "result": {"agent_version": NaN}}'),
    "very deep": raw_answer('{"id": ID, "result": ' + '{"a":' * 50_000 + "1" + "}" * 50_001),
    "very long number": raw_answer('{"id": ID, "result": {"uptime_s": ' + "9" * 100_000 + "}}"),
    "lone surrogate": raw_answer('{"id": ID, "error": {"code": "x", "message": "\\ud800 \\ud800"}}'),
    "not UTF-8": answering(lambda _: say(struct.pack(">II", 4, 0) + b"\xff\xfe{}")),
    "error is text": error_of("no"),
    "error with escapes": error_of({"code": _ESCAPES, "message": _ESCAPES, "hint": _ESCAPES}),
    "error of odd types": error_of({"code": {}, "message": [1], "hint": 5}),
    "answers another": answering(lambda number: send({"id": number + 1000, "result": {}}), stays=True),
    "id is an object": answering(lambda _: send({"id": {"a": 1}, "result": {}}), stays=True),
    "event is a list": answering(lambda number: (send({"id": number, "event": [1]}), send({"id": number}))),
    "events for ever": answering(events_for_ever),
}


if __name__ == "__main__":
    if sys.argv[1] == "--list":
        print(json.dumps(list(BEHAVIOURS)))
    else:
        BEHAVIOURS[sys.argv[1]]()
