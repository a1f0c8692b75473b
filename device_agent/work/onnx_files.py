"""Finds the files that an ONNX model would have the runtime open, before the runtime sees the model.

A tensor may lie outside its model: `external_data` holds a `location` that the runtime opens beside the model
(onnx.proto, TensorProto). The walk here goes over the protobuf's bytes with a list of what is still to be
read, not with recursion, and looks into each byte at most once, so a hostile file costs no more than its size.
Field numbers are those of onnx.proto; wire format: protobuf.dev/programming-guides/encoding.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from pathlib import Path

from device_agent.errors import RequestError

MOST_FIELDS = 2_000_000  # of one model; one with 10 000 operators has some 300 000
MOST_LEVELS = 100  # where protobuf itself gives up
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5

# message → field → message: every road that leads to a tensor; whatever else there is, is stepped over
_INSIDE = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_KEY, _VALUE = 1, 2


class _MalformedError(ValueError):
    """The bytes are no protobuf, or more of it than any model has."""


def check(path: Path, allowed: Collection[str] = ()) -> None:
    """Refuse a model that names a file which is not in `allowed` (plain names, beside the model).

    Raises:
        RequestError: `model_refused`; also for a file that is no ONNX model.
    """
    if path.suffix == ".ort":
        raise _refused("files of the kind .ort are not loaded", "export the model as .onnx")
    try:
        for location in sorted(locations(path)):
            if location not in allowed or "/" in location or "\\" in location:
                raise _refused(
                    f"it wants to open {location[:100]!r}, which is not among its files",
                    "save the model with its weights inside, or name the file in the bundle",
                )
    except _MalformedError as error:
        raise _refused(f"it is no ONNX model: {error}", "export the model again") from error


def locations(path: Path) -> set[str]:
    """Return the `location` of every tensor that lies outside the model, whatever it is.

    Raises:
        ValueError: the file is no ONNX model.
    """
    with path.open("rb") as stream:
        if stream.seek(0, 2) == 0:
            raise _MalformedError("it is empty")
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _locations(data)


def _locations(data: mmap.mmap) -> set[str]:
    found: set[str] = set()
    fields = 0
    todo = [("Model", 0, len(data), 0)]
    while todo:
        message, begin, end, level = todo.pop()
        if level > MOST_LEVELS:
            raise _MalformedError(f"it is nested in more than {MOST_LEVELS} levels")
        inside = _INSIDE[message]
        for number, first, last in _fields(data, begin, end):
            fields += 1
            if fields > MOST_FIELDS:
                raise _MalformedError(f"it has more than {MOST_FIELDS} parts")
            if message == "Tensor" and number in inside:
                found.update(_location(data, first, last))
            elif number in inside:
                todo.append((inside[number], first, last, level + 1))
    return found


def _location(data: mmap.mmap, begin: int, end: int) -> Iterator[str]:
    """Yield the value of an entry of `external_data` whose key is `location`."""
    keys, values = [], []
    for number, first, last in _fields(data, begin, end):
        if number == _KEY:
            keys.append(data[first : min(last, first + 100)])
        elif number == _VALUE:
            values.append(data[first : min(last, first + 5000)])
    if b"location" in keys:
        yield from (value.decode("utf-8", "backslashreplace") for value in values)


def _fields(data: mmap.mmap, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, first byte and end of every field of one message that has a length; check the others."""
    position = begin
    while position < end:
        tag, position = _varint(data, position, end)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise _MalformedError(f"there is no field {number}")
        if kind == _LENGTH:
            length, position = _varint(data, position, end)
            if length > end - position:
                raise _MalformedError("a part is longer than the whole")
            yield number, position, position + length
            position += length
        else:
            position = _step_over(data, kind, position, end)
            yield 0, position, position


def _step_over(data: mmap.mmap, kind: int, position: int, end: int) -> int:
    if kind == _VARINT:
        return _varint(data, position, end)[1]
    if kind not in (_EIGHT_BYTES, _FOUR_BYTES):
        raise _MalformedError(f"no field has the kind {kind}")
    position += 8 if kind == _EIGHT_BYTES else 4
    if position > end:
        raise _MalformedError("it ends inside a number")
    return position


def _varint(data: mmap.mmap, position: int, end: int) -> tuple[int, int]:
    """Return a number of up to ten bytes of seven bits, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            raise _MalformedError("it ends inside a number")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise _MalformedError("a number has more than ten bytes")


def _refused(why: str, hint: str) -> RequestError:
    return RequestError("model_refused", f"the model is not loaded: {why}", hint)
