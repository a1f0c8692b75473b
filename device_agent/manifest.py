"""Read a bundle's manifest.json, trusting nothing in it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from device_agent.errors import RequestError

MAX_BYTES = 1024 * 1024
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class BundleFile:
    """One file that the manifest names: its digest and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """What the agent needs of a manifest; the rest of it is for the one who uses the bundle."""

    model_file: str
    runtime: str
    threads: int
    files: dict[str, BundleFile]
    golden_inputs: tuple[str, ...]
    golden_outputs: tuple[str, ...]
    rtol: float
    atol: float


def parse(data: bytes) -> Manifest:
    """Return the manifest in `data`.

    Raises:
        RequestError: `bad_manifest`, saying which part is not as it must be.
    """
    _require(len(data) <= MAX_BYTES, f"it is longer than {MAX_BYTES} bytes")
    try:
        document = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise RequestError("bad_manifest", f"manifest.json is not JSON: {str(error)[:200]}") from error
    _require(isinstance(document, dict), "it is not an object")
    _require(document.get("format") == 1, "its format is not 1")
    files = _files(document.get("files"))
    model = _object(document, "model")
    golden = _object(document, "golden")
    tolerance = _object(golden, "tolerance")
    manifest = Manifest(
        model_file=_named(model.get("file"), files, "model.file"),
        runtime=_text(model.get("runtime"), "model.runtime"),
        threads=_whole(model.get("threads"), "model.threads", least=1),
        files=files,
        golden_inputs=_names(golden.get("inputs"), files, "golden.inputs"),
        golden_outputs=_names(golden.get("outputs"), files, "golden.outputs"),
        rtol=_tolerance(tolerance, "rtol"),
        atol=_tolerance(tolerance, "atol"),
    )
    _require(len(manifest.golden_outputs) > 0, "golden.outputs is empty")
    return manifest


def _require(condition: bool, what: str) -> None:
    if not condition:
        raise RequestError("bad_manifest", f"manifest.json cannot be used: {what}", "build the bundle again")


def _object(parent: dict[str, Any], key: str) -> dict[str, Any]:
    value = parent.get(key)
    if not isinstance(value, dict):
        raise RequestError("bad_manifest", f"manifest.json cannot be used: {key} is not an object")
    return value


def _files(value: object) -> dict[str, BundleFile]:
    if not isinstance(value, dict) or not value:
        raise RequestError(
            "bad_manifest", "manifest.json cannot be used: files is not an object with entries"
        )
    files = {}
    for name, entry in value.items():
        _require(
            bool(_PLAIN_NAME.fullmatch(name)) and name != "manifest.json", f"{name[:100]!r} is no plain name"
        )
        _require(isinstance(entry, dict), f"files.{name} is not an object")
        sha256 = _text(entry.get("sha256"), f"files.{name}.sha256")
        _require(bool(_SHA256.fullmatch(sha256)), f"files.{name}.sha256 is no SHA-256")
        files[name] = BundleFile(sha256, _whole(entry.get("size"), f"files.{name}.size"))
    return files


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise RequestError("bad_manifest", f"manifest.json cannot be used: {where} is not a text")
    return value


def _whole(value: object, where: str, least: int = 0) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RequestError(
            "bad_manifest", f"manifest.json cannot be used: {where} is no whole number ≥ {least}"
        )
    return value


def _named(value: object, files: dict[str, BundleFile], where: str) -> str:
    name = _text(value, where)
    _require(name in files, f"{where} names {name[:100]!r}, which is not among its files")
    return name


def _names(value: object, files: dict[str, BundleFile], where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise RequestError("bad_manifest", f"manifest.json cannot be used: {where} is not a list")
    return tuple(_named(name, files, where) for name in value)


def _tolerance(tolerance: dict[str, Any], key: str) -> float:
    value = tolerance.get(key)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < 1e9:
        raise RequestError(
            "bad_manifest", f"manifest.json cannot be used: golden.tolerance.{key} is no number ≥ 0"
        )
    return float(value)
