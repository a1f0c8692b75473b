"""The one error that the agent answers with, and the reading of request parameters that raises it.

Codes: bad_request, bad_digest, bad_offset, bad_manifest, missing_files, unknown_file, not_checked,
not_staged, not_activated, not_confirmed, no_previous, older_refused, bundle_bad, untrusted, no_trust, disk_full,
over_quota, storage, runtime_missing, model_refused, worker_died, no_worker_user, hook_failed, timed_out,
out_of_memory, cancelled, busy, locked, unsupported, not_allowed, no_agent, no_model, no_meter, bad_input,
protocol_mismatch, bad_frame, internal.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from typing import Any

_SHA256 = re.compile(r"[0-9a-f]{64}")


class RequestError(Exception):
    """A request that cannot be served: a code for programs, a message and a hint for people."""

    def __init__(self, code: str, message: str, hint: str = "") -> None:
        super().__init__(printable(message))
        self.code = code
        self.message = printable(message)
        self.hint = printable(hint)

    def as_dict(self) -> dict[str, str]:
        """Return the `error` object of an answer."""
        return {"code": self.code, "message": self.message, "hint": self.hint}


def printable(text: str) -> str:
    """Return a text without what a terminal would obey: a model or a client may have chosen its words."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def from_os_error(error: OSError) -> RequestError:
    """Turn an operating system's error into a fault: `disk_full` or `storage`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RequestError(
            "disk_full", f"the board's disk is full ({error})", "free some space on the board"
        )
    return RequestError("storage", f"the board could not read or write its state folder: {error}")


def sha256_of(params: Mapping[str, Any], key: str) -> str:
    """Return a parameter that must be a lower-case SHA-256 in hexadecimal."""
    value = params.get(key)
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise RequestError("bad_request", f"parameter {key!r} is not a SHA-256 in lower-case hexadecimal")
    return value


def sha256_list(params: Mapping[str, Any], key: str) -> list[str]:
    """Return a parameter that must be a list of SHA-256 digests."""
    values = params.get(key)
    if not isinstance(values, list):
        raise RequestError("bad_request", f"parameter {key!r} is not a list")
    return [sha256_of({key: value}, key) for value in values]


def integer(params: Mapping[str, Any], key: str, *, least: int = 0) -> int:
    """Return a parameter that must be a whole number of at least `least`."""
    value = params.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise RequestError("bad_request", f"parameter {key!r} is not a whole number of at least {least}")
    return value


def text(params: Mapping[str, Any], key: str) -> str:
    """Return a parameter that must be a non-empty string."""
    value = params.get(key)
    if not isinstance(value, str) or not value:
        raise RequestError("bad_request", f"parameter {key!r} is not a text")
    return value
