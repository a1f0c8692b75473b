"""Where a board is, who one is there, and the key that proves that it is the board."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import InputError

_USER_AT_HOST = re.compile(r"(?:(?P<user>[^@\s:]+)@)?(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^@\s:\[\]]+)")


@dataclass(frozen=True)
class SshAddress:
    """How a board is reached; what is `None` comes from the user's ssh_config, else it is what ssh itself would take.

    Attributes:
        host: a name, an address, or an alias of the ssh_config.
        port: of the SSH server.
        user: whom to log in as.
        identity: file of the private key.
        host_key: "ssh-ed25519 AAAA…", the only key that the board may show; `None`: not known yet.
    """

    host: str
    port: int | None = None
    user: str | None = None
    identity: Path | None = None
    host_key: str | None = None

    def __str__(self) -> str:
        """Return it as ssh writes it: user@host:port, without what is left to the ssh_config."""
        user = f"{self.user}@" if self.user else ""
        return f"{user}{self.host}{f':{self.port}' if self.port else ''}"


def parse_address(text: str) -> tuple[str | None, str]:
    """Return the user (`None` if not named) and the host of "user@host".

    Raises:
        InputError: it is neither a host nor a user and a host.
    """
    found = _USER_AT_HOST.fullmatch(text)
    if found is None or text.startswith("-"):
        raise InputError(
            f"{text!r} is no address of a board", hint="such as pi@192.0.2.10; the port goes to --port"
        )
    return found["user"], found["host"].strip("[]")


def fingerprint(host_key: str) -> str:
    """Return a key's fingerprint as ssh prints it, "SHA256:…".

    Raises:
        InputError: it is not "TYPE BASE64".
    """
    try:
        _, encoded = host_key.split()
        blob = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error) as error:
        raise InputError(f"{host_key[:60]!r} is no host key", hint='such as "ssh-ed25519 AAAA…"') from error
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode("ascii").rstrip("=")
