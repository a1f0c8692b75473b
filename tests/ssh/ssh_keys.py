"""Key pairs for the tests, made by ssh-keygen, and the programs that tests need."""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest


def need(program: str, package: str) -> str:
    """Return a program's path; skip the test that needs it where it is missing."""
    found = shutil.which(program, path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin:/sbin:/bin")
    if found is None:
        pytest.skip(f"{program} is missing: apt-get install {package}")
    return found


class Key:
    """A key pair made by ssh-keygen."""

    def __init__(self, path: Path, kind: str = "ed25519", passphrase: str = "") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        command = [need("ssh-keygen", "openssh-client"), "-q", "-t", kind, "-N", passphrase, "-C", "tests"]
        bits = {"rsa": ["-b", "2048"], "ecdsa": ["-b", "256"]}.get(kind, [])
        subprocess.run([*command, *bits, "-f", path], check=True, stdin=subprocess.DEVNULL)
        self.path = path
        self.public = " ".join(path.with_name(path.name + ".pub").read_text().split()[:2])

    @property
    def fingerprint(self) -> str:
        """The fingerprint as ssh prints it."""
        return fingerprint(self.public)


def fingerprint(public: str) -> str:
    """Return `SHA256:…` of a public key's line."""
    digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")
