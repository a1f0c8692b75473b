"""Frames that were damaged, cut, or come in pieces of any size."""

import io
import json
import math
import struct

from hypothesis import given, settings
from hypothesis import strategies as st

from device_agent import wire

MOST_HEADER, MOST_PAYLOAD = 4096, 1000

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
headers = st.dictionaries(st.sampled_from(["id", "method", "params", "hello", "cancel", "x"]), json_values)
frames = st.builds(
    lambda header, payload: struct.pack(">II", len(header), len(payload)) + header + payload,
    headers.map(lambda header: json.dumps(header).encode()) | st.binary(max_size=50),
    st.binary(max_size=50),
)
mutations = st.tuples(
    st.sampled_from(["flip", "insert", "delete", "repeat", "cut"]),
    st.integers(0, 10_000),
    st.binary(min_size=1, max_size=8),
)


def mutated(data, how):
    for kind, place, part in how:
        at = place % (len(data) + 1)
        data = {
            "flip": lambda d=data, a=at, p=part: d[:a] + p + d[a + len(p) :],
            "insert": lambda d=data, a=at, p=part: d[:a] + p + d[a:],
            "delete": lambda d=data, a=at, p=part: d[:a] + d[a + len(p) :],
            "repeat": lambda d=data, a=at, p=part: d[:a] + d[max(0, a - 40) :],
            "cut": lambda d=data, a=at, p=part: d[:a],
        }[kind]()
    return data


class Pieces:
    """Gives at most so many bytes at a time, in turn, and notes the most that was asked for."""

    def __init__(self, data, sizes):
        self._stream = io.BytesIO(data)
        self._sizes = sizes
        self._turn = 0
        self.most_asked = 0

    def read(self, count):
        self._turn += 1
        self.most_asked = max(self.most_asked, count)
        return self._stream.read(min(count, self._sizes[self._turn % len(self._sizes)]))


def frames_in(stream):
    """Return the frames up to the stream's end or its first fault, and whether there was one."""
    found = []
    try:
        while (frame := wire.read_frame(stream, MOST_HEADER, MOST_PAYLOAD)) is not None:
            found.append(frame)
    except wire.WireError:
        return found, True
    return found, False


streams = st.builds(
    lambda parts, how: mutated(b"".join(parts), how),
    st.lists(frames, max_size=4),
    st.lists(mutations, max_size=3),
)


@settings(max_examples=400, deadline=None)
@given(streams, st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_damaged_frames_end_in_a_wire_error_and_pieces_make_no_difference(data, sizes):
    pieces = Pieces(data, sizes)
    found = frames_in(pieces)
    assert repr(found) == repr(frames_in(io.BytesIO(data)))
    assert pieces.most_asked <= MOST_HEADER
    for frame in found[0]:
        assert isinstance(frame.header, dict)
        assert len(frame.payload) <= MOST_PAYLOAD


def is_finite(value):
    if isinstance(value, dict):
        return all(map(is_finite, value.values()))
    if isinstance(value, list):
        return all(map(is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


@settings(max_examples=300, deadline=None)
@given(streams)
def test_a_frame_that_was_read_can_be_written_and_is_read_again_as_the_same(data):
    for frame in frames_in(io.BytesIO(data))[0]:
        if is_finite(frame.header):
            again = io.BytesIO(wire.encode_frame(frame.header, frame.payload))
            assert wire.read_frame(again) == frame


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=8), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.binary(max_size=100))
def test_no_lengths_make_the_reader_ask_for_more_than_its_limits(before, header, payload, rest):
    pieces = Pieces(before + struct.pack(">II", header, payload) + rest, [7])
    frames_in(pieces)
    assert pieces.most_asked <= MOST_HEADER
