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


class RunningDigests:
    """Digests of files under way, kept up while they come, so that nobody need read a file again at its end.

    One whose beginning came to an earlier process, or that was begun anew, is not known here.
    """

    _MOST = 64

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, Any]] = {}

    def add(self, name: str, offset: int, chunk: bytes) -> None:
        """Take the chunk of a file that begins at `offset`."""
        there, digest = self._known.pop(name, (-1, None)) if offset else (0, sha256())
        if there == offset:
            digest.update(chunk)
            self._known[name] = (offset + len(chunk), digest)
        for oldest in list(self._known)[: -self._MOST]:
            del self._known[oldest]

    def end(self, name: str) -> str:
        """Return the digest of all that came, in hexadecimal; empty if some of it was not seen here."""
        _, digest = self._known.pop(name, (0, None))
        return str(digest.hexdigest()) if digest else ""
