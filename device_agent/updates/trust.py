"""Who may sign what this board activates; runs in a worker, for it needs `cryptography`.

The trusted keys are one JSON file that only provisioning may change (it belongs to root, and nobody else may
write to it):

    {"format": 1, "keys": [{"id": "…", "public": "<base64 of the 32 bytes>", "owner": "ci"}], "revoked": ["…"]}

A bundle is trusted when one of its signatures is a good one of a key in the list that is not revoked. So keys
are rotated by listing the old and the new one together for a while; a lost key is revoked by its id. The
signature is Ed25519 (RFC 8032) over `CONTEXT` and the manifest's bytes: what was signed for anything else is
worth nothing here.
"""

from __future__ import annotations

import base64
import json
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from device_agent.errors import RequestError
from device_agent.updates.digest import digest_of_bytes

CONTEXT = b"edge-pipeline bundle manifest 1\0"
_MOST_KEYS = 1000
_MOST_BYTES = 1024 * 1024
MOST_SIGNATURES = 16


def key_id(public: bytes) -> str:
    """Return the id of a public key: the first 16 hexadecimal digits of its SHA-256."""
    return digest_of_bytes(public)[:16]


def verify(details: Mapping[str, Any]) -> dict[str, Any]:
    """Find a good signature of a manifest.

    Args:
        details: manifest (path), signatures (list of {key, signature}), keys (path of the trusted keys).

    Returns:
        signed_by (a key's id) and owner.

    Raises:
        RequestError: `untrusted` (no signature, none by a trusted key, a revoked key, a wrong signature),
            `no_trust` (the list of keys cannot be used, or `cryptography` is missing).
    """
    manifest = Path(details["manifest"]).read_bytes()
    keys, revoked = read_keys(Path(details["keys"]))
    signatures = details["signatures"]
    if not signatures:
        raise RequestError(
            "untrusted", "the bundle is not signed", "sign it with a key that this board trusts"
        )
    reasons = []
    for entry in signatures[:MOST_SIGNATURES]:
        signer = str(entry.get("key", ""))[:64]
        reason = _fault(signer, entry.get("signature"), manifest, keys, revoked)
        if reason is None:
            return {"signed_by": signer, "owner": keys[signer]["owner"]}
        reasons.append(f"{signer or 'no key'}: {reason}")
    raise RequestError(
        "untrusted",
        f"no signature of the bundle is trusted by this board: {'; '.join(reasons)}",
        f"trusted keys: {', '.join(sorted(set(keys) - revoked)) or 'none'}",
    )


def read_keys(path: Path) -> tuple[dict[str, dict[str, Any]], set[str]]:
    """Read the trusted keys by id, and the ids that were revoked.

    Raises:
        RequestError: `no_trust`: the file is missing, others may write to it, or it is not understood.
    """
    try:
        with path.open("rb") as stream:
            _require_guarded(os.fstat(stream.fileno()), path)
            document = json.loads(stream.read(_MOST_BYTES))
        entries = document["keys"]
        if document["format"] != 1 or len(entries) > _MOST_KEYS:
            raise ValueError("its format is not 1, or it is too long")
        keys = {}
        for entry in entries:
            public = base64.b64decode(entry["public"], validate=True)
            if len(public) != 32 or entry["id"] != key_id(public):
                raise ValueError(f"key {entry['id']!r} is not the one that its bytes stand for")
            keys[entry["id"]] = {"public": public, "owner": str(entry.get("owner", ""))[:200]}
        return keys, {str(each) for each in document.get("revoked", [])}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RequestError(
            "no_trust",
            f"the trusted keys {path} cannot be used: {error!r}",
            "provision the board again; until then nothing new is activated",
        ) from error


def _require_guarded(facts: os.stat_result, path: Path) -> None:
    if facts.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or facts.st_uid not in (0, os.geteuid()):
        raise RequestError(
            "no_trust",
            f"others than provisioning may write to the trusted keys {path}",
            f"chown root {path}; chmod 644 {path}",
        )


def _fault(
    signer: str,
    signature: object,
    manifest: bytes,
    keys: Mapping[str, Mapping[str, Any]],
    revoked: Sequence[str] | set[str],
) -> str | None:
    """Return what is wrong with one signature."""
    if signer in revoked:
        return "this key was revoked"
    if signer not in keys:
        return "this key is not trusted here"
    try:
        raw = base64.b64decode(str(signature), validate=True)
    except ValueError:  # binascii.Error is one; text that is not ASCII is another
        return "the signature is not base64"
    return None if _is_good(keys[signer]["public"], raw, CONTEXT + manifest) else "the signature is wrong"


def _is_good(public: bytes, signature: bytes, message: bytes) -> bool:
    try:
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415 - on the board only workers have it
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    except ImportError as error:
        raise RequestError(
            "no_trust",
            "this board cannot verify signatures: the Python package cryptography is missing",
            "provision the board again",
        ) from error
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True
