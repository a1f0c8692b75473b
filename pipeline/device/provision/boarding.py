"""Starts the agent's own installer on a board that has nothing of it: it travels ahead of the first frame.

    sudo -n python3 -I -c '<bootstrap>'  ←  [password\\n] \\0 length archive frames…

The bootstrap keeps the archive in memory (a temporary folder may be missing, full or read-only), imports the
installer from it and leaves the rest of the stream to it.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shlex
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import BinaryIO

from device_agent import wire
from pipeline.device.provision.probe import BoardFacts
from pipeline.device.shell import Shell
from pipeline.device.transport import Transport
from pipeline.errors import InputError, LinkLostError

_SUFFIXES = (".py", ".service")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_SUDO_S = 60.0

# What comes before the zero byte is a password that sudo did not ask for after all.
_BOOTSTRAP = """\
import os, sys
sys.dont_write_bytecode = True
def take(count):
    data = b""
    while len(data) < count:
        piece = os.read(0, min(count - len(data), 65536))
        if not piece: sys.exit("the host broke off")
        data += piece
    return data
while take(1) != b"\\0": pass
archive = take(int.from_bytes(take(8), "big"))
memory = os.memfd_create("device-agent")
with os.fdopen(os.dup(memory), "wb") as stream: stream.write(archive)
path = "/proc/self/fd/%d" % memory
sys.path.insert(0, path)
from device_agent.install.server import main
sys.exit(main(sys.argv[1], path))
"""


@dataclass(frozen=True)
class Package:
    """The agent's package of this host: the zip file, its version, and a digest of what is in it."""

    archive: bytes
    version: str
    digest: str


@cache
def package() -> Package:
    """Pack the agent that belongs to this pipeline; the same files always give the same bytes."""
    folder = Path(wire.__file__).resolve().parent
    digest = hashlib.sha256()
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(each for each in folder.rglob("*") if each.suffix in _SUFFIXES):
            name = path.relative_to(folder.parent).as_posix()
            data = path.read_bytes()
            digest.update(f"{name}\0{len(data)}\0".encode() + data)
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    found = re.search(r'^__version__ = "([^"]+)"', (folder / "__init__.py").read_text(), re.MULTILINE)
    return Package(memory.getvalue(), found[1] if found else "0", digest.hexdigest())


def board(
    shell: Shell, facts: BoardFacts, *, system: bool, looks_only: bool, password: str | None = None
) -> Transport:
    """Return a way to an installer on the board.

    Args:
        shell: the way to the board.
        facts: what it is.
        system: it installs for the whole system, or into the user's home folder.
        looks_only: it changes nothing, and needs no sudo.
        password: for sudo, where that asks for one.
    """
    options = json.dumps({"system": system, "looks_only": looks_only})
    command = f"{shlex.quote(facts.python)} -I -c {shlex.quote(_BOOTSTRAP)} {shlex.quote(options)}"
    as_root = system and not looks_only and not facts.is_root
    if as_root:
        command = f"sudo -n -- {command}" if password is None else f"sudo -S -p '' -- {command}"
    archive = package().archive
    ahead = f"{password}\n".encode() if as_root and password is not None else b""
    return _Preceded(shell.transport(command), ahead + b"\0" + len(archive).to_bytes(8, "big") + archive)


def require_sudo(shell: Shell, facts: BoardFacts, password: str | None) -> None:
    """Find out whether we may become root on the board.

    Raises:
        InputError: we may not, and what can be done.
    """
    if facts.is_root:
        return
    ways = "--ask-sudo-password asks for it; --user installs without sudo, into your home folder on the board"
    if not facts.sudo:
        raise InputError(
            f"{shell.name}: {facts.user} is not root there, and there is no sudo",
            hint="log in as root, or use --user",
        )
    if password is None:
        if facts.sudo != "free":
            raise InputError(f"{shell.name}: sudo wants a password for {facts.user}", hint=ways)
        return
    done = shell.run("sudo -S -p '' true", f"{password}\n".encode(), timeout_s=_SUDO_S)
    if done.status:
        words = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise InputError(
            f"{shell.name}: sudo refuses {facts.user}: {words[-1] if words else 'it says nothing'}", hint=ways
        )


class _Preceded:
    """A transport whose stream begins with some bytes of ours."""

    def __init__(self, below: Transport, ahead: bytes) -> None:
        self._below = below
        self._ahead = ahead

    @property
    def name(self) -> str:
        """See `Transport`."""
        return self._below.name

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        """See `Transport.open`."""
        source, sink = self._below.open()
        try:
            left = memoryview(self._ahead)
            while left:
                left = left[sink.write(left) or 0 :]
            sink.flush()
        except OSError as error:
            words = self._below.last_words()
            self._below.close()
            raise LinkLostError(f"{self.name}: the installer does not start: {words or error}") from error
        return source, sink

    def close(self) -> None:
        """See `Transport.close`."""
        self._below.close()

    def last_words(self) -> str:
        """See `Transport.last_words`."""
        return self._below.last_words()
