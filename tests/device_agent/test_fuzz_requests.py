"""Requests with parameters of any kind, to an agent in this process, and streams of damaged frames to its server."""

import hashlib
import io
import json
import os
import re
import struct
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from device_agent import errors, wire
from device_agent.errors import RequestError
from device_agent.serve import agent
from device_agent.serve.peers import owner
from device_agent.serve.request import Request, Session
from device_agent.serve.server import EXIT_BAD_PEER, EXIT_DONE, Server
from device_agent.serve.streams import PipeStream
from device_agent.settings import Settings
from device_agent.updates import journal
from device_agent.work.workers import Cancellation

DOCUMENTED = set(re.findall(r"[a-z_]{4,}", errors.__doc__.split("Codes:")[1]))
FILES = {"model.onnx": b"no model", "in.npy": b"no array", "out.npy": b"nor this"}


def sha256_of(data):
    return hashlib.sha256(data).hexdigest()


def manifest_of(kind):
    document = {
        "format": 1,
        "kind": kind,
        "name": kind,
        "files": {name: {"sha256": sha256_of(data), "size": len(data)} for name, data in FILES.items()},
        "model": {"file": "model.onnx", "runtime": "none-such", "threads": 1},
        "golden": {"inputs": ["in.npy"], "outputs": ["out.npy"], "tolerance": {"rtol": 0, "atol": 0}},
        "agent": {"version": "1"},
    }
    return json.dumps(document).encode()


MANIFESTS = [manifest_of("model"), manifest_of("agent")]
DIGESTS = [sha256_of(data) for data in (*FILES.values(), *MANIFESTS, b"never sent", b"x")]

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([-1, 0, 1, 2**62, 2**64, 10**300])
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["bundle", "measure", "none-such", "..", "\0", "\ud800", *DIGESTS]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
digests = st.sampled_from(DIGESTS) | json_values
files = st.lists(
    st.fixed_dictionaries({"sha256": digests, "size": st.integers(0, 20) | json_values}), max_size=3
)
NAMED = {
    "sha256": digests,
    "manifest_sha256": st.sampled_from(DIGESTS[3:5]) | digests,
    "bundle": st.sampled_from(DIGESTS[3:5]) | digests,
    "file": digests,
    "size": st.integers(0, 20) | json_values,
    "offset": st.integers(0, 5) | json_values,
    "purpose": st.sampled_from(["bundle", "measure"]) | json_values,
    "files": files | st.lists(digests, max_size=3) | json_values,
    "keep": st.lists(digests, max_size=3) | json_values,
    "signatures": st.lists(st.fixed_dictionaries({"key": json_values, "signature": json_values}))
    | json_values,
    "allow_downgrade": json_values,
    "confirm_within_s": st.just(3600.0) | json_values,
    "to_previous": st.booleans() | json_values,
    "why": st.text(max_size=20) | json_values,
    "wait_s": st.just(0) | json_values,
    "hold_s": st.just(0) | json_values,
    "runtime": st.sampled_from(["none-such", ""]) | json_values,
    "threads": st.integers(-1, 3) | json_values,
    "protocol": st.dictionaries(st.sampled_from(["min_runs", "energy", "timeout_s", "x"]), json_values)
    | json_values,
    "generation": json_values,
}
params = st.fixed_dictionaries({}, optional=NAMED)
requests = st.tuples(st.sampled_from(sorted(agent.METHODS)), params, st.binary(max_size=8) | st.just(b"x"))


@pytest.fixture(scope="module")
def made():
    """An agent with the files of two bundles on its board; the disk is not under test, so nothing is synced."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        found = agent.Agent(Settings(Path(folder), quota_bytes=1_000_000))
        upload(found)
        yield found


def ask(made, method, values, payload=b"", session=None):
    cancellation = Cancellation()
    if method == "watch":
        cancellation.cancel()  # it would wait for another model
    session = session or Session(owner())
    return made.serve(method, Request(values, payload, session, lambda _: None, cancellation))


def answer_to(*request):
    try:
        return {"result": ask(*request)}
    except RequestError as error:
        return {"error": error.as_dict()}


def upload(made):
    for data in (*FILES.values(), *MANIFESTS):
        ask(made, "files.put", {"sha256": sha256_of(data), "size": len(data), "offset": 0}, data)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(requests, min_size=1, max_size=8))
def test_any_request_ends_in_a_result_that_can_be_sent_or_in_a_documented_error(made, asked):
    session = Session(owner())
    try:
        for method, values, payload in asked:
            answer = answer_to(made, method, values, payload, session)
            assert answer.get("error", {}).get("code", "busy") in DOCUMENTED
            wire.encode_frame(answer)
    finally:
        made.measuring.forget(session)
    assert ask(made, "status", {})["update"]["state"] in journal.STATES


frames = st.builds(
    lambda method, values, payload: {"id": 1, "method": method, "params": values, "payload": payload},
    st.sampled_from(sorted(agent.METHODS)),
    params | json_values,
    st.binary(max_size=8),
)
strange = st.dictionaries(
    st.sampled_from(["id", "method", "params", "cancel", "hello"]), json_values, max_size=3
)


def encoded(number, frame):
    payload = frame.pop("payload", b"")
    if "id" in frame and frame["id"] == 1:
        frame["id"] = number
    text = json.dumps(frame).encode()
    return struct.pack(">II", len(text), len(payload)) + text + payload


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(frames | frames | strange, max_size=6),
    st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=3)), max_size=2),
)
def test_any_stream_is_answered_in_frames_to_its_end_or_its_first_fault(made, asked, damage):
    hello = wire.encode_frame({"hello": {"protocols": [1]}})
    data = b"".join(encoded(number, dict(frame)) for number, frame in enumerate(asked))
    for place, new in damage:
        at = place % (len(data) + 1)
        data = data[:at] + new + data[at + len(new) :]
    sink = io.BytesIO()
    status = Server(made, PipeStream(io.BytesIO(hello + data), sink), Session(owner())).serve()
    assert status in (EXIT_DONE, EXIT_BAD_PEER)
    sink.seek(0)
    answers = iter(lambda: wire.read_frame(sink), None)
    assert "hello" in next(answers).header
    for answer in answers:
        assert answer.header.keys() & {"result", "error", "event"}
        assert answer.header.get("error", {}).get("code", "busy") in DOCUMENTED - {"internal"}


@settings(max_examples=200, deadline=None)
@given(
    st.binary(max_size=100)
    | json_values.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries({}, optional=dict.fromkeys(journal.Journal._fields, json_values)).map(
        lambda fields: json.dumps(fields).encode()
    )
)
def test_any_journal_is_read_or_said_to_be_damaged(data):
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / journal.FILE).write_bytes(data)
        try:
            found = journal.read(Path(folder))
        except RequestError as error:
            found = error
    if isinstance(found, RequestError):
        assert found.code == "storage"
    else:
        assert found.state in journal.STATES
        assert all(isinstance(count, int) for count in found.crashes.values())
        assert all(isinstance(why, str) for why in found.bad.values())
