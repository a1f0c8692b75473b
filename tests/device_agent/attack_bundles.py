"""Boards that want signatures, and bundles that an attacker would send them, for tests."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from daemon_process import Daemon, Signer, manifest_of, model_files, put, write_keys

from device_agent.errors import RequestError


class Guarded(NamedTuple):
    """A daemon that wants signatures, a key that it trusts, one that it does not know, and a revoked one."""

    daemon: Daemon
    ours: Signer
    other: Signer
    revoked: Signer
    keys: Path

    def sign(self, manifest: bytes) -> list[dict[str, str]]:
        return [self.ours.sign(manifest)]

    def trust(self, *revoked: Signer) -> None:
        """Write the list of keys anew, with some more of them revoked."""
        write_keys(self.keys, self.ours, self.revoked, revoked=(self.revoked, *revoked))

    def stage(self, manifest: bytes, files: dict[str, bytes] | None = None, **params: Any) -> str:
        """Upload, stage with our signature, and return the bundle's digest."""
        bundle = upload(self.daemon, manifest, model_files() if files is None else files)
        signed = {"signatures": self.sign(manifest), **params}
        found: str = self.daemon.ask("bundle.stage", manifest_sha256=bundle, **signed)["bundle"]
        return found

    def check(self, manifest: bytes, **params: Any) -> str:
        bundle = self.stage(manifest, **params)
        assert self.daemon.ask("bundle.check", bundle=bundle)["ok"]
        return bundle

    def deploy(self, manifest: bytes, **params: Any) -> str:
        bundle = self.check(manifest, **params)
        self.daemon.ask("bundle.activate", bundle=bundle)
        self.daemon.ask("bundle.commit", bundle=bundle)
        return bundle


@contextlib.contextmanager
def guarded(folder: Path, *options: str) -> Iterator[Guarded]:
    keys = folder / "keys.json"
    made = Guarded(Daemon(folder, "--keys", str(keys), *options), Signer(), Signer(), Signer(), keys)
    made.trust()
    made.daemon.start()
    try:
        yield made
    finally:
        made.daemon.stop()


def upload(daemon: Daemon, manifest: bytes, files: dict[str, bytes]) -> str:
    """Send a manifest and some files over one connection; returns the manifest's digest."""
    with daemon.client() as client:
        for data in files.values():
            put(client, data)
        return put(client, manifest)


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def code_of(act: Any, *arguments: Any, **named: Any) -> str:
    """Return the code that something is refused with."""
    try:
        found = act(*arguments, **named)
    except RequestError as error:
        return error.code
    raise AssertionError(f"it was done: {found!r}")


def tree_of(folder: Path) -> dict[str, Any]:
    """Return everything in a folder: the rights, where links point, what files hold."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        content = path.read_bytes() if stat.S_ISREG(mode) else None
        found[str(path.relative_to(folder))] = (mode, path.readlink() if path.is_symlink() else content)
    return found


# --- signatures -----------------------------------------------------------------------------------------------


def _text(signature: bytes) -> str:
    return base64.b64encode(signature).decode()


def _under_our_id(board: Guarded, signature: Any) -> list[dict[str, Any]]:
    return [{"key": board.ours.id, "signature": signature}]


FORGERIES: dict[str, Any] = {
    "none": lambda board, manifest: [],
    "by-an-unknown-key": lambda board, manifest: [board.other.sign(manifest)],
    "by-a-revoked-key": lambda board, manifest: [board.revoked.sign(manifest)],
    "by-both-of-these": lambda board, manifest: [board.other.sign(manifest), board.revoked.sign(manifest)],
    "of-another-bundle": lambda board, manifest: board.sign(manifest_of(model_files(), name="other")),
    "of-nothing": lambda board, manifest: board.sign(b""),
    "of-the-digest": lambda board, manifest: board.sign(sha256_of(manifest).encode()),
    "without-the-context": lambda board, manifest: _under_our_id(
        board, _text(board.ours.private.sign(manifest))
    ),
    "by-another-key-under-our-id": lambda board, manifest: _under_our_id(
        board, board.other.sign(manifest)["signature"]
    ),
    "zeros": lambda board, manifest: _under_our_id(board, _text(bytes(64))),
    "half-of-it": lambda board, manifest: _under_our_id(board, board.ours.sign(manifest)["signature"][:44]),
    "empty": lambda board, manifest: _under_our_id(board, ""),
    "no-base64": lambda board, manifest: _under_our_id(board, "!" * 88),
    "no-ascii": lambda board, manifest: _under_our_id(board, "ü" * 88),
    "a-number": lambda board, manifest: _under_our_id(board, 7),
    "null": lambda board, manifest: _under_our_id(board, None),
    "no-key": lambda board, manifest: [{"signature": board.ours.sign(manifest)["signature"]}],
    "behind-too-many": lambda board, manifest: [board.other.sign(manifest)] * 16 + board.sign(manifest),
}


# --- names ----------------------------------------------------------------------------------------------------

EVIL_NAMES = {
    "parent": "../evil",
    "far-away": "../" * 20 + "tmp/evil",
    "through-a-folder": "a/../../evil",
    "absolute": "/tmp/evil",  # noqa: S108 - never to be written
    "nul": "evil\0.onnx",
    "newline": "evil\n",
    "backslash": "..\\evil",
    "dot": ".",
    "two-dots": "..",
    "three-dots": "...",
    "empty": "",
    "hidden": ".evil",
    "blank": " evil",
    "dash": "-evil",
    "cyrillic": "m\N{CYRILLIC SMALL LETTER O}del.onnx",
    "fullwidth-solidus": "..\N{FULLWIDTH SOLIDUS}evil",
    "one-dot-leaders": "\N{ONE DOT LEADER}\N{ONE DOT LEADER}",
    "combining": "e\N{COMBINING ACUTE ACCENT}vil",
    "right-to-left": "evil\N{RIGHT-TO-LEFT OVERRIDE}xnno",
    "surrogate": "evil\ud800",
    "long": "e" * 101,
    "very-long": "e" * 100_000,
    "manifest": "manifest.json",
    "signatures": "signatures.json",
}


def named(name: str, kind: str = "model") -> tuple[dict[str, bytes], bytes]:
    """Return files, and a manifest that has one of them a second time under some name."""
    files = model_files()
    agent = {"kind": "agent", "agent": {"version": "1"}} if kind == "agent" else {}
    return files, manifest_of({**files, name: files["model.onnx"]}, **agent)


# --- manifests that readers would not agree on ----------------------------------------------------------------


def _agent(*names: str) -> bytes:
    return manifest_of(dict.fromkeys(names, b"x"), kind="agent", agent={"version": "1"})


def _with(extra: bytes) -> bytes:
    """Return a manifest with something in a field that the agent does not know."""
    return manifest_of(model_files(), extra=0).replace(b'"extra": 0', b'"extra": ' + extra)


def _good(old: bytes, new: bytes) -> bytes:
    return manifest_of(model_files()).replace(old, new)


NO_MANIFESTS = {
    "file-and-folder": _agent("device_agent", "device_agent/wire.py"),
    "deep-file-and-folder": _agent("a/b", "a/b/c/d"),
    "a-name-twice": _good(b'"name":', b'"name": "x", "name":'),
    "a-file-twice": _good(b'"model.onnx": {', b'"model.onnx": {"size": 1, '),
    "not-a-number": _with(b"NaN"),
    "infinity": _with(b"-Infinity"),
    "over-all-numbers": _with(b"1e999"),
    "deep": _with(b"[" * 900 + b"]" * 900),
    "deeper": _with(b'{"a":' * 50_000 + b"1" + b"}" * 50_000),
    "a-size-of-4000-digits": _good(b'"size": ', b'"size": ' + b"9" * 4000),
    "a-number-of-900000-digits": _with(b"9" * 900_000),
    "a-million-brackets": b"[" * 1_000_000,
    "no-text": b"\xff\xfe",
    "a-mark": b"\xef\xbb\xbf" + manifest_of(model_files()),
    "nothing": b"",
    "json-twice": manifest_of(model_files()) * 2,
    "for-another-agent": json.dumps({"format": 2}).encode(),
}
