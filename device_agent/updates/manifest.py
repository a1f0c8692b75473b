"""Read a bundle's manifest.json, trusting nothing in it.

A bundle is a model with its golden input and output (kind "model"), or a version of this agent (kind
"agent"). Its manifest names every other file with digest and size, so the SHA-256 of the manifest's bytes
stands for the whole bundle, and a signature of those bytes is a signature of everything.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, NamedTuple, Optional

from device_agent.errors import RequestError
from device_agent.updates.digest import SHA256

MAX_BYTES = 1024 * 1024
MAX_FILES = 5000
MAX_FILE_BYTES = 16 * 1024**3
MAX_SEQUENCE = 2**63 - 1
FILE = "manifest.json"
SIGNATURES = "signatures.json"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
_DEEPEST = 8
_MOST_LEVELS = 50
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+-]{0,39}")


class BundleFile(NamedTuple):
    """One file that the manifest names: its digest and its size in bytes."""

    sha256: str
    size: int


class Model(NamedTuple):
    """How a model is run, and what it must answer.

    `expected_p50_ms` is what the same board took when the model was chosen; the check allows `margin` times
    as much on top (0.5: half as long again). `None` means that nothing is expected.
    """

    file: str
    runtime: str
    threads: int
    golden_inputs: tuple[str, ...]
    golden_outputs: tuple[str, ...]
    rtol: float
    atol: float
    expected_p50_ms: Optional[float]
    margin: float


class Manifest(NamedTuple):
    """What the agent needs of a manifest; the rest of it is for the one who uses the bundle.

    `model` is set for kind "model", `agent_version` for kind "agent".
    """

    kind: str
    name: str
    sequence: int
    files: dict[str, BundleFile]
    model: Optional[Model]
    agent_version: Optional[str]


def parse(data: bytes) -> Manifest:
    """Return the manifest in `data`.

    Raises:
        RequestError: `bad_manifest`, saying which part is not as it must be.
    """
    _require(len(data) <= MAX_BYTES, f"it is longer than {MAX_BYTES} bytes")
    try:
        document = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_without_repeats,
            parse_float=_finite,
            parse_constant=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise _unusable(f"it is not JSON: {str(error)[:200]}") from error
    _require(isinstance(document, dict), "it is not an object")
    _require(not _is_deep(document), f"it is nested in more than {_MOST_LEVELS} levels")
    _require(document.get("format") == 1, "its format is not 1")
    kind = _text(document.get("kind", "model"), "kind")
    _require(kind in ("model", "agent"), f"kind {kind[:100]!r} is neither model nor agent")
    files = _files(document.get("files"), nested=kind == "agent")
    return Manifest(
        kind=kind,
        name=_text(document.get("name"), "name"),
        sequence=_whole(document.get("sequence", 0), "sequence", most=MAX_SEQUENCE),
        files=files,
        model=_model(document, files) if kind == "model" else None,
        agent_version=_agent_version(document) if kind == "agent" else None,
    )


def _model(document: dict[str, Any], files: dict[str, BundleFile]) -> Model:
    model = _object(document, "model")
    golden = _object(document, "golden")
    tolerance = _object(golden, "tolerance")
    outputs = _names(golden.get("outputs"), files, "golden.outputs")
    _require(len(outputs) > 0, "golden.outputs is empty")
    expected = model.get("expected_p50_ms")
    return Model(
        file=_named(model.get("file"), files, "model.file"),
        runtime=_text(model.get("runtime"), "model.runtime"),
        threads=_whole(model.get("threads"), "model.threads", least=1, most=1024),
        golden_inputs=_names(golden.get("inputs"), files, "golden.inputs"),
        golden_outputs=outputs,
        rtol=_number(tolerance.get("rtol"), "golden.tolerance.rtol"),
        atol=_number(tolerance.get("atol"), "golden.tolerance.atol"),
        expected_p50_ms=None if expected is None else _number(expected, "model.expected_p50_ms"),
        margin=_number(model.get("margin", 0.5), "model.margin"),
    )


def _agent_version(document: dict[str, Any]) -> str:
    version = _text(_object(document, "agent").get("version"), "agent.version")
    _require(bool(_VERSION.fullmatch(version)), "agent.version is no version")
    return version


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a name that comes twice: readers would not agree on which of the two counts."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name comes twice in one object")
    return found


def _finite(text: str) -> float:
    """Refuse NaN and infinity: they are no JSON, and the agent could not tell them to anybody."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no number of JSON")
    return number


def _is_deep(document: object) -> bool:
    """Say whether a document could exhaust the stack of another reader that begins deeper than this one."""
    level: list[Any] = [document]
    for _ in range(_MOST_LEVELS):
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [each for values in inner for each in values if isinstance(each, (dict, list))]
    return bool(level)


def _unusable(what: str) -> RequestError:
    return RequestError("bad_manifest", f"manifest.json cannot be used: {what}", "build the bundle again")


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise _unusable(what)


def _object(parent: dict[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    if not isinstance(value, dict):
        raise _unusable(f"{key} is not an object")
    return value


def _files(value: object, *, nested: bool) -> dict[str, BundleFile]:
    if not isinstance(value, dict) or not value:
        raise _unusable("files is not an object with entries")
    _require(len(value) <= MAX_FILES, f"it names more than {MAX_FILES} files")
    files = {}
    for name, entry in value.items():
        parts = name.split("/")
        plain = all(_PLAIN_NAME.fullmatch(part) for part in parts)
        _require(plain and len(parts) <= (_DEEPEST if nested else 1), f"{name[:100]!r} is no plain name")
        _require(name not in (FILE, SIGNATURES), f"{name!r} is a name that a bundle keeps for itself")
        _require(isinstance(entry, dict), f"files.{name} is not an object")
        sha256 = _text(entry.get("sha256"), f"files.{name}.sha256")
        _require(bool(SHA256.fullmatch(sha256)), f"files.{name}.sha256 is no SHA-256")
        files[name] = BundleFile(sha256, _whole(entry.get("size"), f"files.{name}.size", most=MAX_FILE_BYTES))
    folders = {"/".join(name.split("/")[:depth]) for name in files for depth in range(1, name.count("/") + 1)}
    _require(not folders & set(files), "a name is a file and a folder at once")
    return files


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 1000:
        raise _unusable(f"{where} is not a text of 1 to 1000 characters")
    return value


def _whole(value: object, where: str, least: int = 0, most: int = 2**63 - 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise _unusable(f"{where} is no whole number from {least} to {most}")
    return value


def _named(value: object, files: dict[str, BundleFile], where: str) -> str:
    name = _text(value, where)
    _require(name in files, f"{where} names {name[:100]!r}, which is not among its files")
    return name


def _names(value: object, files: dict[str, BundleFile], where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > 100:
        raise _unusable(f"{where} is not a list of at most 100 names")
    return tuple(_named(name, files, where) for name in value)


def _number(value: object, where: str) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1e9:
        raise _unusable(f"{where} is no number from 0 to 1e9")
    return float(value)
