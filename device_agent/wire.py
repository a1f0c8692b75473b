"""Messages between host and agent: length-prefixed JSON headers with an optional binary payload.

A frame is an 8-byte prefix (header length, then payload length, both unsigned 32-bit big-endian), the header
as a UTF-8 JSON object, and the payload's bytes. Both lengths are checked against the limits before anything
is read, so a hostile peer cannot make the other side allocate at will. `pipeline` imports this file and no
other of the agent; it uses the standard library only.
"""

from __future__ import annotations

import json
import struct
from typing import Any, NamedTuple, Protocol

PROTOCOL = 1
MAX_HEADER = 8 * 1024 * 1024
MAX_PAYLOAD = 1024 * 1024

_PREFIX = struct.Struct(">II")


class Source(Protocol):
    """Gives up to so many bytes, none at its end."""

    def read(self, count: int, /) -> bytes | None: ...  # noqa: D102


class Sink(Protocol):
    """Takes some of the bytes, says how many, and has them sent on `flush`."""

    def write(self, data: memoryview, /) -> int | None: ...  # noqa: D102
    def flush(self) -> None: ...  # noqa: D102


class WireError(Exception):
    """The stream does not hold a valid frame; the connection is of no more use."""


class Frame(NamedTuple):
    """One message: a JSON object and the bytes that came with it."""

    header: dict[str, Any]
    payload: bytes = b""


def encode_frame(header: dict[str, Any], payload: bytes = b"") -> bytes:
    """Return a frame's bytes.

    Raises:
        WireError: the header is not plain JSON (NaN counts as not), or a part is over its limit.
    """
    try:
        text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise WireError(f"a header cannot be written as JSON: {error}") from error
    _check_lengths(len(text), len(payload))
    return _PREFIX.pack(len(text), len(payload)) + text + payload


def write_frame(stream: Sink, header: dict[str, Any], payload: bytes = b"") -> None:
    """Write one frame and flush. Writers that share a stream must take turns (a lock is theirs to hold).

    Raises:
        WireError: see `encode_frame`; nothing was written then.
        OSError: the stream is broken.
    """
    left = memoryview(encode_frame(header, payload))
    while left:
        left = left[stream.write(left) or 0 :]
    stream.flush()


def read_frame(stream: Source, max_header: int = MAX_HEADER, max_payload: int = MAX_PAYLOAD) -> Frame | None:
    """Read one frame; `None` when the stream ended cleanly between two frames.

    Args:
        stream: where it comes from.
        max_header: bytes that a header may have at most, for a reader that expects small ones.
        max_payload: bytes that a payload may have at most.

    Raises:
        WireError: a length over its limit, a stream that ends inside a frame, a header that is no object.
        OSError: the stream is broken.
    """
    prefix = _read_up_to(stream, _PREFIX.size)
    if not prefix:
        return None
    if len(prefix) < _PREFIX.size:
        raise WireError("the stream ended inside a frame's prefix")
    header_length, payload_length = _PREFIX.unpack(prefix)
    _check_lengths(header_length, payload_length, max_header, max_payload)
    header = _parse_header(_read_exactly(stream, header_length))
    return Frame(header, _read_exactly(stream, payload_length))


def _check_lengths(
    header_length: int, payload_length: int, max_header: int = MAX_HEADER, max_payload: int = MAX_PAYLOAD
) -> None:
    if header_length > max_header:
        raise WireError(f"a header of {header_length} bytes is over the limit of {max_header}")
    if payload_length > max_payload:
        raise WireError(f"a payload of {payload_length} bytes is over the limit of {max_payload}")


def _parse_header(data: bytes) -> dict[str, Any]:
    try:
        header = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise WireError(f"a header is not JSON: {str(error)[:200]}") from error
    if not isinstance(header, dict):
        raise WireError(f"a header is a JSON {type(header).__name__}, not an object")
    return header


def _read_exactly(stream: Source, count: int) -> bytes:
    data = _read_up_to(stream, count)
    if len(data) < count:
        raise WireError(f"the stream ended inside a frame: {len(data)} of {count} bytes came")
    return data


def _read_up_to(stream: Source, count: int) -> bytes:
    """Read until `count` bytes or the end of the stream (an unbuffered pipe may give fewer at a time)."""
    parts = []
    left = count
    while left:
        part = stream.read(left)
        if not part:
            break
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
