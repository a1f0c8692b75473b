"""Which bundles a simulated board trusts: any, or those that are signed with one of its keys."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from device_agent.errors import RequestError
from pipeline.signing import CONTEXT, PublicKey


class Trust:
    """The keys of one board; `None`: it trusts any bundle."""

    def __init__(self, keys: Sequence[PublicKey] | None = None, revoked: Sequence[str] = ()) -> None:
        self._keys = None if keys is None else {key.id: key for key in keys}
        self._revoked = set(revoked)

    def describe(self) -> str:
        """Return what the status tells."""
        return "any bundle" if self._keys is None else "keys in the simulator"

    def signer(self, manifest: bytes, signatures: Sequence[Mapping[str, Any]]) -> str | None:
        """Return the id of the trusted key that signed a manifest; `None` if nobody had to.

        Raises:
            RequestError: `untrusted`.
        """
        if self._keys is None:
            return None
        for entry in signatures:
            key = self._keys.get(str(entry.get("key")))
            if key and key.id not in self._revoked and _is_good(key, entry.get("signature"), manifest):
                return key.id
        raise RequestError("untrusted", "no signature of the bundle is trusted by this board")


def _is_good(key: PublicKey, signature: object, manifest: bytes) -> bool:
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.public))
    try:
        public.verify(base64.b64decode(str(signature), validate=True), CONTEXT + manifest)
    except (InvalidSignature, ValueError):
        return False
    return True
