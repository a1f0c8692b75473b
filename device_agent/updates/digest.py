"""SHA-256 of files and bytes, without loading OpenSSL: that alone would add 4 MB to an idle daemon.

CPython carries its own C implementation beside OpenSSL's; `hashlib` is the way where a build left it out.
"""

from __future__ import annotations

import importlib
import re
from importlib import util
from pathlib import Path
from typing import Any

SHA256 = re.compile(r"[0-9a-f]{64}")
_CHUNK = 1024 * 1024


def _find_sha256() -> Any:
    ours = next((name for name in ("_sha2", "_sha256") if util.find_spec(name)), "hashlib")
    return importlib.import_module(ours).sha256


sha256 = _find_sha256()


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return str(digest.hexdigest())


def digest_of_bytes(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hexadecimal."""
    return str(sha256(data).hexdigest())
