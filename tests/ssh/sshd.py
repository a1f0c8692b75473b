"""Real SSH servers on loopback for the tests: OpenSSH's sshd and dropbear, each on a board of its own.

A board here is a folder: the home of its user "pi", programs, host keys, log. That user is the one who runs the tests
under another name and with another home (libnss-wrapper tells the servers so); nothing outside the folder is touched.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from ssh_keys import Key, need
from ssh_processes import descendants, free_port, kill, listens

USER = "pi"
GUEST, GUEST_ID = "guest", 61234  # a user without rights; servers that root runs can serve it, too
_START_S = 10.0
_WRAPPERS = Path("/usr/lib").glob("*/libnss_wrapper.so")
_WRAPPER = next(iter(_WRAPPERS), None)


class Server:
    """What both servers have in common; a context manager that ends the server and removes its board.

    Args:
        authorized: public keys, each with options before it if it has any, that may log in as either user.
        host_key: the kind of its host key: ed25519, ecdsa or rsa.
        environment: variables of every session; PATH decides what the board seems to have.
    """

    package = ""

    def __init__(
        self,
        authorized: Sequence[str] = (),
        *,
        host_key: str = "ed25519",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        if _WRAPPER is None:
            pytest.skip("libnss_wrapper.so is missing: apt-get install libnss-wrapper")
        self.folder = Path(tempfile.mkdtemp(prefix="board-"))
        self.folder.chmod(0o755)
        self.home = self.folder / "home" / USER
        self.bin = self.folder / "bin"
        self.log = self.folder / "log"
        self.environment = {"PATH": f"{self.bin}:/usr/bin:/bin:/usr/sbin:/sbin", **(environment or {})}
        self.port = free_port()
        self.changed: list[
            str
        ] = []  # commands that change what the board's system looks like, to itself alone
        self.process: subprocess.Popen[bytes] | None = None
        self._keys = 0
        self.bin.mkdir()
        for name, number in ((USER, os.getuid()), (GUEST, GUEST_ID)):
            (self.folder / "home" / name / ".ssh").mkdir(parents=True)
            if os.getuid() == 0:
                os.chown(self.folder / "home" / name, number, -1)
                os.chown(self.folder / "home" / name / ".ssh", number, -1)
        self.authorize(authorized)
        self._write_users()
        self.new_host_key(host_key)
        self.program("journalctl", 'echo "the log of this board: $*"')

    def __enter__(self) -> Server:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def host_key(self) -> str:
        """The public host key: its kind and its base64."""
        return self.key.public

    @property
    def fingerprint(self) -> str:
        """Of the host key, as ssh prints it."""
        return self.key.fingerprint

    def authorize(self, lines: Sequence[str]) -> None:
        """Say who may log in, instead of those before."""
        for home in (self.folder / "home").iterdir():
            (home / ".ssh" / "authorized_keys").write_text("".join(f"{line}\n" for line in lines))

    def new_host_key(self, kind: str = "ed25519") -> Key:
        """Make a host key that the server has after its next start."""
        self._keys += 1
        self.key = Key(self.folder / "host_keys" / f"{kind}{self._keys}", kind)
        return self.key

    def program(self, name: str, script: str) -> Path:
        """Put a program for `sh` on the board, found before the system's."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return path

    def without(self, *names: str) -> None:
        """Leave the board only those programs of this system whose names do not begin like one of these."""
        for place in ("/usr/bin", "/bin", "/usr/sbin", "/sbin"):
            for each in os.scandir(place):
                if not each.name.startswith(names) and not (self.bin / each.name).exists():
                    (self.bin / each.name).symlink_to(each.path)
        self.environment["PATH"] = str(self.bin)

    def start(self) -> Server:
        """Start the server and wait until it listens."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._within(), *self.command()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": "/usr/bin:/bin", **self._users()},
                start_new_session=True,
                cwd="/",
            )
        deadline = time.monotonic() + _START_S
        while not listens(self.port):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """End the server and its connections, as a cut of the power would."""
        if self.process is None:
            return
        sessions = descendants(self.process.pid)  # before they lose their parent
        self.process.kill()
        kill(sessions)
        self.process.wait()
        self.process = None

    def restart(self) -> None:
        """End it and start it again on the same port."""
        self.stop()
        self.start()

    def kill_connections(self) -> None:
        """End every session and what it started; the server goes on."""
        assert self.process
        kill(descendants(self.process.pid))

    def command(self) -> list[str]:
        """Return the server's command line."""
        raise NotImplementedError

    def looks_as_after(self, *commands: str) -> None:
        """Have what runs on the board see the system as it is after these commands; nobody else does."""
        if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
            pytest.skip("a board that looks different needs a namespace of mounts, and root for it")
        self.changed += commands
        self.restart()

    def _within(self) -> list[str]:
        if not self.changed:
            return []
        return ["unshare", "--mount", "sh", "-ec", "\n".join([*self.changed, 'exec "$@"']), "sh"]

    def _write_users(self) -> None:
        home = self.folder / "home"
        users = [(USER, os.getuid(), os.getgid()), (GUEST, GUEST_ID, GUEST_ID)]
        entries = [f"{name}:*:{uid}:{gid}::{home / name}:/bin/bash" for name, uid, gid in users]
        entries.append("sshd:*:103:65534::/run/sshd:/usr/sbin/nologin")
        (self.folder / "passwd").write_text("\n".join(entries) + "\n")
        groups = sorted({(gid, name) for name, _, gid in users})
        (self.folder / "group").write_text("".join(f"{name}:x:{gid}:\n" for gid, name in groups))

    def _users(self) -> dict[str, str]:
        return {
            "LD_PRELOAD": str(_WRAPPER),
            "NSS_WRAPPER_PASSWD": str(self.folder / "passwd"),
            "NSS_WRAPPER_GROUP": str(self.folder / "group"),
        }


class Sshd(Server):
    """OpenSSH's server. `settings` are lines of its configuration that go before all others, and so prevail."""

    package = "openssh-server"

    def __init__(
        self,
        authorized: Sequence[str] = (),
        *,
        settings: Sequence[str] = (),
        sftp: bool = True,
        host_key: str = "ed25519",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._program = need("sshd", self.package)
        self.settings = list(settings)
        self._sftp = sftp
        super().__init__(authorized, host_key=host_key, environment=environment)

    def command(self) -> list[str]:
        """See `Server.command`; the configuration is written anew."""
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        variables = {**self._users(), **self.environment}
        lines = [
            *self.settings,
            "ListenAddress 127.0.0.1",
            f"Port {self.port}",
            f"HostKey {self.key.path}",
            f"PidFile {self.folder / 'pid'}",
            "LogLevel VERBOSE",
            "StrictModes no",
            "UsePAM no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "PrintMotd no",
            "SetEnv " + " ".join(f'"{name}={value}"' for name, value in variables.items()),
            *(["Subsystem sftp internal-sftp"] if self._sftp else []),
        ]
        config = self.folder / "sshd_config"
        config.write_text("\n".join(lines) + "\n")
        return [self._program, "-D", "-e", "-f", str(config)]


class Dropbear(Server):
    """The server of small boards: no SFTP, and a PATH of its own, which a forced command replaces here."""

    package = "dropbear-bin"

    def authorize(self, lines: Sequence[str]) -> None:
        """See `Server.authorize`."""
        session = shlex.quote(str(self.folder / "session"))
        super().authorize([line if "command=" in line else f'command="{session}" {line}' for line in lines])

    def command(self) -> list[str]:
        """See `Server.command`."""
        program, convert = need("dropbear", self.package), need("dropbearconvert", self.package)
        session = self.folder / "session"
        exports = "".join(
            f"export {name}={shlex.quote(value)}\n"
            for name, value in {**self._users(), **self.environment}.items()
        )
        session.write_text(f'#!/bin/sh\n{exports}exec sh -c "$SSH_ORIGINAL_COMMAND"\n')
        session.chmod(0o755)
        own = self.key.path.with_suffix(".dropbear")
        if not own.exists():
            pem = self.key.path.with_suffix(".pem")
            shutil.copy2(self.key.path, pem)
            subprocess.run([convert, "openssh", "dropbear", pem, own], check=True, capture_output=True)
        return [program, "-F", "-E", "-s", "-r", str(own), "-p", f"127.0.0.1:{self.port}", "-P",
                str(self.folder / "pid")]  # fmt: skip
