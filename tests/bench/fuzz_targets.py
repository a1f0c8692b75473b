"""What `fuzz_agent.py` feeds: everything of the agent that reads bytes which others wrote.

A target is a function of some bytes that returns whatever they are, and raises when the agent did what it must not:
another exception than it promises, an answer that nobody can read, a fault of its own. Seeds are valid inputs.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from device_agent import wire
from device_agent.errors import RequestError
from device_agent.serve import agent
from device_agent.serve.peers import owner
from device_agent.serve.request import Session
from device_agent.serve.server import Server
from device_agent.serve.streams import PipeStream
from device_agent.settings import Settings
from device_agent.updates import journal, manifest, trust
from device_agent.work import onnx_files

Feed = Callable[[bytes], None]
HELLO = {"hello": {"protocols": [1]}}


class Target(NamedTuple):
    """How a target is made ready, with a folder of its own, and what is mutated at first."""

    ready: Callable[[Path], Feed]
    seeds: list[bytes]


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# --- wire -----------------------------------------------------------------------------------------------------


class _Pieces:
    """Gives bytes in pieces whose size the first of them decides."""

    def __init__(self, data: bytes) -> None:
        self._size = data[0] % 40 + 1 if data else 1
        self._stream = io.BytesIO(data[1:])

    def read(self, count: int) -> bytes:
        if count > wire.MAX_HEADER:
            raise AssertionError(f"it wants {count} bytes")
        return self._stream.read(min(count, self._size))


def _wire(_: Path) -> Feed:
    def feed(data: bytes) -> None:
        pieces = _Pieces(data)
        with contextlib.suppress(wire.WireError):
            while (frame := wire.read_frame(pieces, 1 << 20, 1 << 20)) is not None:
                if type(frame.header) is not dict:
                    raise AssertionError(frame)

    return feed


_WIRE = [
    b"\x07" + wire.encode_frame(HELLO) + wire.encode_frame({"id": 1, "method": "status"}),
    b"\x27" + wire.encode_frame({"id": 1, "method": "files.put", "params": {"size": 3}}, b"abc"),
    b"\x01" + struct.pack(">II", 2**32 - 1, 2**32 - 1),
    b"\x10" + struct.pack(">II", 12, 0) + b"[" * 12,
]


# --- manifests, journals, keys --------------------------------------------------------------------------------

_DIGEST = "0" * 64
_FILES = {"model.onnx": b"no model", "in.npy": b"no array", "out.npy": b"nor this"}
_MODEL = {
    "format": 1,
    "kind": "model",
    "name": "chain",
    "sequence": 3,
    "model": {"file": "model.onnx", "runtime": "none-such", "threads": 1, "expected_p50_ms": 1.5},
    "files": {name: {"sha256": _sha256(data), "size": len(data)} for name, data in _FILES.items()},
    "golden": {"inputs": ["in.npy"], "outputs": ["out.npy"], "tolerance": {"rtol": 1e-3, "atol": 0}},
    "io": {"scale": 0.5, "labels": ["a"]},
}
_AGENT = {
    "format": 1,
    "kind": "agent",
    "name": "agent",
    "agent": {"version": "1.2"},
    "files": {name: {"sha256": _DIGEST, "size": 3} for name in ("a/b/c.py", "a/d.py", "e.py")},
}
_JOURNAL = {
    "state": "staged",
    "bundle": _DIGEST,
    "generation": 2,
    "crashes": {_DIGEST: 1},
    "bad": {_DIGEST: "x"},
}
_KEYS = {
    "format": 1,
    "keys": [{"id": trust.key_id(bytes(32)), "public": "A" * 43 + "=", "owner": "x"}],
    "revoked": ["0" * 16],
}


def _json(*documents: object) -> list[bytes]:
    return [json.dumps(document).encode() for document in documents]


def _manifest(_: Path) -> Feed:
    def feed(data: bytes) -> None:
        try:
            found = manifest.parse(data)
        except RequestError as error:
            if error.code != "bad_manifest":
                raise
            return
        for name in found.files:
            if not Path("/b", name).is_relative_to("/b") or ".." in Path(name).parts:
                raise AssertionError(name)
        wire.encode_frame({"result": json.loads(data)})

    return feed


def _read_as(name: str, code: str, read: Callable[[Path], object]) -> Callable[[Path], Feed]:
    """Return a target that reads a file, and says with one code that it cannot."""

    def ready(folder: Path) -> Feed:
        descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o644)

        def feed(data: bytes) -> None:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, data, 0)
            try:
                read(folder / name)
            except RequestError as error:
                if error.code != code:
                    raise

        return feed

    return ready


# --- ONNX files -----------------------------------------------------------------------------------------------


def _field(number: int, data: bytes) -> bytes:
    """Return a field of a protobuf message that has a length below 16384."""
    low, high = len(data) & 0x7F | 0x80, len(data) >> 7
    return bytes([number << 3 & 0x7F | 2 | (0x80 if number > 15 else 0)]) + (
        (bytes([number >> 4]) if number > 15 else b"") + bytes([low, high]) + data
    )


_OUTSIDE = _field(13, _field(1, b"location") + _field(2, b"../secret"))
_TENSOR = b"\x08\x10" + _OUTSIDE + _field(8, b"weights")
_BRANCH = _field(1, _field(5, _field(6, _field(5, _TENSOR))))
_ONNX = [
    b"\x08\x09" + _field(7, _field(5, _TENSOR) + _field(15, _field(1, _TENSOR))),
    b"\x08\x09"
    + _field(7, _BRANCH)
    + _field(20, _field(1, _BRANCH))
    + _field(25, _field(11, _field(5, _TENSOR))),
]


# --- requests -------------------------------------------------------------------------------------------------


def _requests(folder: Path) -> Feed:
    """Frames to a server: a line is a header, and behind a tabulator its payload."""
    os.fsync = lambda _: None  # the disk is not under test, and would be all that takes time
    made = agent.Agent(Settings(folder / "state", quota_bytes=1_000_000))
    quiet = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115 - as long as the process

    def feed(data: bytes) -> None:
        source, sink = io.BytesIO(_frames(data)), io.BytesIO()
        with contextlib.redirect_stderr(quiet):
            Server(made, PipeStream(source, sink), Session(owner())).serve()
        sink.seek(0)
        while (answer := wire.read_frame(sink)) is not None:
            if answer.header.get("error", {}).get("code") == "internal":
                raise AssertionError(answer.header)

    for seed in _REQUESTS[:2]:
        feed(seed)
    return feed


def _frames(data: bytes) -> bytes:
    frames = [] if data.startswith(b"!") else [wire.encode_frame(HELLO)]
    for line in data.split(b"\n"):
        header, _, payload = line.partition(b"\t")
        frames.append(struct.pack(">II", len(header), len(payload)) + header + payload)
    return b"".join(frames)


def _lines(*requests: tuple[str, dict[str, object], bytes]) -> bytes:
    lines = []
    for number, (method, params, payload) in enumerate(requests):
        header = json.dumps({"id": number, "method": method, "params": params}).encode()
        lines.append(header + (b"\t" + payload if payload else b""))
    return b"\n".join(lines)


def _put(data: bytes, **more: object) -> tuple[str, dict[str, object], bytes]:
    return "files.put", {"sha256": _sha256(data), "size": len(data), "offset": 0, **more}, data


_BUNDLE = json.dumps(_MODEL).encode()
_ID = _sha256(_BUNDLE)
_REQUESTS = [
    _lines(*(_put(data) for data in (*_FILES.values(), _BUNDLE))),
    _lines(("bundle.stage", {"manifest_sha256": _ID, "signatures": [], "allow_downgrade": True}, b"")),
    _lines(("bundle.check", {"bundle": _ID}, b""), ("bundle.activate", {"bundle": _ID}, b"")),
    _lines(("bundle.commit", {"bundle": _ID}, b""), ("bundle.confirm", {}, b"")),
    _lines(("bundle.rollback", {"to_previous": True}, b""), ("bundle.forgive", {"bundle": _ID}, b"")),
    _lines(("bundle.mark_bad", {"bundle": _ID, "why": "evil"}, b""), ("active", {}, b"")),
    _lines(
        _put(b"abc", purpose="measure"), ("files.missing", {"files": [{"sha256": _DIGEST, "size": 3}]}, b"")
    ),
    _lines(("files.collect", {"keep": [_DIGEST]}, b""), ("watch", {"generation": 1}, b"")),
    _lines(("lease.acquire", {"hold_s": 0, "wait_s": 0.0}, b""), ("lease.release", {}, b"")),
    _lines(
        ("measure", {"file": _DIGEST, "runtime": "none-such", "threads": 1, "protocol": {"min_runs": 1}}, b"")
    ),
    _lines(("measure_layers", {"files": [_DIGEST], "runtime": "none-such", "threads": 1}, b"")),
    b'{"id": 1, "method": "watch"}\n{"cancel": 1}\n{"id": 2, "method": "metrics"}',
    b'!{"hello": {"protocols": [1, 2], "client": "x"}}',
]


TARGETS = {
    "wire": Target(_wire, _WIRE),
    "manifest": Target(_manifest, _json(_MODEL, _AGENT)),
    "requests": Target(_requests, _REQUESTS),
    "journal": Target(
        _read_as(journal.FILE, "storage", lambda path: journal.read(path.parent)),
        _json(_JOURNAL, journal.Journal()._asdict()),
    ),
    "keys": Target(_read_as("keys.json", "no_trust", trust.read_keys), _json(_KEYS)),
    "onnx_files": Target(_read_as("model.onnx", "model_refused", onnx_files.check), _ONNX),
}


def make(name: str, folder: Path) -> Feed:
    """Return a target's function, ready, with a place of its own in a folder."""
    place = folder / "target"
    place.mkdir()
    return TARGETS[name].ready(place)
