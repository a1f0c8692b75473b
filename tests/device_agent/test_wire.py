import io
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent import wire

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=10,
)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.dictionaries(st.text(), values), st.binary(max_size=300)), max_size=4))
def test_frames_come_back_as_they_were_written(frames):
    stream = io.BytesIO()
    for header, payload in frames:
        wire.write_frame(stream, header, payload)
    stream.seek(0)
    for header, payload in frames:
        assert wire.read_frame(stream) == wire.Frame(header, payload)
    assert wire.read_frame(stream) is None


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_give_a_frame_an_end_or_a_wire_error(data):
    stream = io.BytesIO(data)
    try:
        frame = wire.read_frame(stream)
    except wire.WireError:
        return
    assert frame is None or isinstance(frame.header, dict)


def test_the_prefix_is_two_big_endian_lengths():
    assert wire.encode_frame({"a": 1}, b"xyz") == b"\0\0\0\x07\0\0\0\x03" + b'{"a":1}' + b"xyz"


@pytest.mark.parametrize(
    "lengths", [(wire.MAX_HEADER + 1, 0), (2, wire.MAX_PAYLOAD + 1), (2**32 - 1, 2**32 - 1)]
)
def test_lengths_over_the_limit_are_refused_before_anything_is_read(lengths):
    stream = io.BytesIO(struct.pack(">II", *lengths) + b"x" * 100)
    with pytest.raises(wire.WireError, match="over the limit"):
        wire.read_frame(stream)
    assert stream.tell() == 8


@pytest.mark.parametrize("cut", [1, 7, 8, 10, 16])
def test_a_stream_that_ends_inside_a_frame_is_an_error(cut):
    whole = wire.encode_frame({"a": 1}, b"xyz")
    with pytest.raises(wire.WireError, match="ended inside"):
        wire.read_frame(io.BytesIO(whole[:cut]))


@pytest.mark.parametrize("text", [b"{", b"\xff\xfe", b"[1]", b"null", b"[" * 100_000, b""])
def test_a_header_that_is_no_json_object_is_an_error(text):
    with pytest.raises(wire.WireError, match="a header is"):
        wire.read_frame(io.BytesIO(struct.pack(">II", len(text), 0) + text))


@pytest.mark.parametrize("header", [{"a": float("nan")}, {"a": object()}, {"a": "x" * wire.MAX_HEADER}])
def test_a_header_that_cannot_travel_is_refused_and_nothing_is_written(header):
    stream = io.BytesIO()
    with pytest.raises(wire.WireError):
        wire.write_frame(stream, header)
    assert stream.getvalue() == b""


def test_a_pipe_that_gives_a_few_bytes_at_a_time_is_read_whole():
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb", buffering=0) as source, os.fdopen(write_end, "wb", buffering=0) as sink:
        whole = wire.encode_frame({"a": 1}, b"xyz")
        for byte in whole:
            sink.write(bytes([byte]))
        assert wire.read_frame(source) == wire.Frame({"a": 1}, b"xyz")
