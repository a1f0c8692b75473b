"""Signs bundles, so that a board activates only what its owner built: Ed25519 (RFC 8032).

The private key is a PEM file of the user's (PKCS #8, mode 0600); a board is given a list of public keys when it
is provisioned. What is signed is `CONTEXT` and the manifest's bytes, and the manifest names every other file.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import platformdirs
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from pipeline.errors import InputError
from pipeline.files import storage_errors, write_text

CONTEXT = b"edge-pipeline bundle manifest 1\0"


@dataclass(frozen=True)
class PublicKey:
    """What a board is told of a key: its id, its 32 bytes in base64, and whose it is, in words."""

    id: str
    public: str
    owner: str


@dataclass(frozen=True)
class SigningKey:
    """A private key and where it lies."""

    private: Ed25519PrivateKey
    path: Path

    @property
    def public(self) -> PublicKey:
        """Return the part that may be shown; the owner is the key file's name without its ending."""
        raw = self.private.public_key().public_bytes_raw()
        return PublicKey(hashlib.sha256(raw).hexdigest()[:16], base64.b64encode(raw).decode(), self.path.stem)

    def sign(self, manifest: bytes) -> dict[str, str]:
        """Return the signature of a manifest's bytes as a board expects it: the key's id, and base64."""
        signature = self.private.sign(CONTEXT + manifest)
        return {"key": self.public.id, "signature": base64.b64encode(signature).decode()}


def default_key_file() -> Path:
    """Return where the user's key lies, if there is one."""
    return platformdirs.user_config_path("pipeline") / "signing_key.pem"


def new_key(path: Path) -> SigningKey:
    """Make a key and write it to a new file that only the user may read.

    Raises:
        InputError: the file is there already: a key that boards trust is never overwritten.
        StorageError: the file cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            raise InputError(f"{path} is there already", hint="name another file with --key") from None
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(pem)
    return SigningKey(private, path)


def load_key(path: Path) -> SigningKey:
    """Read a private key.

    Raises:
        InputError: it cannot be read, others may read it too, or it is no Ed25519 key.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise InputError(f"others may read the key {path}", hint=f"chmod 600 {path}")
        private = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except OSError as error:
        raise InputError(
            f"the key {path} cannot be read: {error.strerror}", hint="pipeline key new"
        ) from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path} is no readable private key: {error}", hint="pipeline key new") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise InputError(f"{path} is no Ed25519 key", hint="pipeline key new")
    return SigningKey(private, path)


def sign_with_own_key(manifest: bytes) -> list[dict[str, str]]:
    """Return the signatures of a manifest by the user's own key; none where there is no key."""
    path = default_key_file()
    return [load_key(path).sign(manifest)] if path.exists() else []


def read_trusted(path: Path) -> tuple[list[PublicKey], list[str]]:
    """Read a file of trusted keys: the keys, and the ids that were revoked.

    Raises:
        InputError: it is not such a file.
    """
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        keys = [PublicKey(**entry) for entry in document["keys"]]
        revoked = [str(each) for each in document["revoked"]]
    except FileNotFoundError:
        return [], []
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is no file of trusted keys: {error!r}") from error
    return keys, revoked


def write_trusted(path: Path, keys: Sequence[PublicKey], revoked: Sequence[str]) -> None:
    """Write a file of trusted keys, for a board's provisioning.

    Raises:
        StorageError: it cannot be written.
    """
    document = {"format": 1, "keys": [asdict(key) for key in keys], "revoked": sorted(set(revoked))}
    write_text(path, json.dumps(document, indent=1) + "\n")
