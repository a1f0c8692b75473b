"""The link against peers that do what no good agent does."""

from __future__ import annotations

import threading
from typing import Any, BinaryIO

import pytest
from device_models import Script, ScriptedTransport

from device_agent.wire import read_frame, write_frame
from pipeline.device.link import Link
from pipeline.errors import AgentError, LinkLostError, TransportError


def greet(source: BinaryIO, sink: BinaryIO) -> None:
    frame = read_frame(source)
    assert frame is not None
    assert frame.header["hello"]["protocols"] == [1]
    write_frame(sink, {"hello": {"protocol": 1, "agent_version": "9.9"}})


def take(source: BinaryIO) -> dict[str, Any]:
    frame = read_frame(source)
    assert frame is not None
    return frame.header


def wait_for_end(source: BinaryIO) -> None:
    while read_frame(source) is not None:
        pass


def answering(reply: Any) -> Script:
    """After the hello, take one request and let `reply(source, sink, header)` go on."""

    def script(source: BinaryIO, sink: BinaryIO) -> None:
        greet(source, sink)
        reply(source, sink, take(source))

    return script


def test_answers_find_their_requests_in_any_order() -> None:
    def script(source: BinaryIO, sink: BinaryIO) -> None:
        greet(source, sink)
        first, second = take(source), take(source)
        for header in (second, first):
            write_frame(sink, {"id": header["id"], "event": {"done": 1}})
            write_frame(sink, {"id": header["id"], "result": {"method": header["method"]}})
        wait_for_end(source)

    link = Link(ScriptedTransport(script))
    events: list[dict[str, Any]] = []
    one, two = link.start("one", {}), link.start("two", {})
    assert one.result(10, events.append) == {"method": "one"}
    assert two.result(10) == {"method": "two"}
    assert events == [{"done": 1}]
    assert link.agent_version == "9.9"
    link.close()


def test_an_error_keeps_its_code_and_hint() -> None:
    def reply(source: BinaryIO, sink: BinaryIO, header: dict[str, Any]) -> None:
        error = {"code": "disk_full", "message": "no room", "hint": "make some"}
        write_frame(sink, {"id": header["id"], "error": error})
        wait_for_end(source)

    link = Link(ScriptedTransport(answering(reply)))
    with pytest.raises(AgentError) as caught:
        link.start("files.put", {}).result(10)
    assert (caught.value.code, caught.value.message, caught.value.hint) == (
        "disk_full",
        "no room",
        "make some",
    )
    link.close()


def test_a_silent_agent_is_given_up_at_the_deadline() -> None:
    link = Link(ScriptedTransport(answering(lambda source, sink, header: wait_for_end(source))))
    with pytest.raises(
        TransportError, match=r"no sign of life for 0\.2 s during 'status'; it said nothing more"
    ):
        link.start("status", {}).result(0.2)
    with pytest.raises(TransportError, match="closed"):
        link.start("status", {})


def test_events_keep_the_deadline_away() -> None:
    pause = threading.Event()

    def reply(source: BinaryIO, sink: BinaryIO, header: dict[str, Any]) -> None:
        for done in range(8):
            write_frame(sink, {"id": header["id"], "event": {"done": done}})
            pause.wait(0.4)
        write_frame(sink, {"id": header["id"], "result": {}})
        wait_for_end(source)

    link = Link(ScriptedTransport(answering(reply)))
    assert link.start("measure", {}).result(2.5, lambda _: None) == {}
    link.close()


@pytest.mark.parametrize(
    ("last", "words"),
    [
        (b"", "the agent closed the connection during 'status'"),
        (b"\x00\x00", "ended inside a frame's prefix"),
        (b"Welcome to Linux!\n", "over the limit"),
        (b"\x00\x00\x00\x02\x00\x00\x00\x00[]", "not an object"),
    ],
)
def test_a_stream_that_ends_or_is_no_stream_of_frames_breaks_the_link(last: bytes, words: str) -> None:
    def reply(source: BinaryIO, sink: BinaryIO, header: dict[str, Any]) -> None:
        sink.write(last)

    link = Link(ScriptedTransport(answering(reply)))
    pending = link.start("status", {})
    with pytest.raises(TransportError, match=words) as caught:
        pending.result(10)
    assert caught.value.exit_code == 4
    link.close()


def test_everyone_who_waits_hears_of_the_end() -> None:
    def script(source: BinaryIO, sink: BinaryIO) -> None:
        greet(source, sink)
        take(source), take(source)

    link = Link(ScriptedTransport(script))
    waiting = [link.start("one", {}), link.start("two", {})]
    for pending in waiting:
        with pytest.raises(TransportError, match="closed the connection"):
            pending.result(10)
    link.close()


def test_an_error_about_the_connection_reaches_who_waits() -> None:
    def reply(source: BinaryIO, sink: BinaryIO, header: dict[str, Any]) -> None:
        write_frame(sink, {"error": {"code": "bad_frame", "message": "the connection is closed", "hint": ""}})

    link = Link(ScriptedTransport(answering(reply)))
    with pytest.raises(LinkLostError, match="heard but a part: the connection is closed"):
        link.start("status", {}).result(10)
    link.close()


def test_an_agent_of_another_protocol_is_refused() -> None:
    def script(source: BinaryIO, sink: BinaryIO) -> None:
        take(source)
        write_frame(sink, {"hello": {"protocol": 7, "agent_version": "7.0"}})
        wait_for_end(source)

    with pytest.raises(TransportError, match="does not speak protocol 1"):
        Link(ScriptedTransport(script))


def test_an_agent_that_ends_before_its_hello_is_reported() -> None:
    with pytest.raises(
        TransportError, match=r"(closed the connection|the connection broke).*; it said nothing more"
    ):
        Link(ScriptedTransport(lambda source, sink: None))


def test_an_interrupt_cancels_the_request_on_the_agent() -> None:
    heard: list[dict[str, Any]] = []

    def reply(source: BinaryIO, sink: BinaryIO, header: dict[str, Any]) -> None:
        write_frame(sink, {"id": header["id"], "event": {"done": 1}})
        heard.append({"cancel_of": header["id"], **take(source)})

    def interrupt(event: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    link = Link(ScriptedTransport(answering(reply)))
    with pytest.raises(KeyboardInterrupt):
        link.start("measure", {}).result(10, interrupt)
    link.close()
    assert heard[0]["cancel"] == heard[0]["cancel_of"]
