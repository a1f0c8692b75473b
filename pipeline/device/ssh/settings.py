"""What the user's ssh_config says about a host, by the word of ssh itself."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pipeline.device.address import SshAddress, parse_address
from pipeline.errors import InputError

_PORT = 22
_DEFAULT_IDENTITIES = ("id_ed25519", "id_ecdsa", "id_rsa")


@dataclass(frozen=True)
class Target:
    """An address with everything that the ssh_config says about it."""

    alias: str
    host: str
    port: int
    user: str
    host_key: str | None
    identities: tuple[Path, ...]
    chosen: Path | None
    identities_only: bool
    jumps: tuple[str, ...]
    proxy_command: str | None
    known_hosts: tuple[Path, ...]
    host_key_alias: str | None = None

    @property
    def known_as(self) -> str:
        """The name that a known_hosts file has for it."""
        if self.host_key_alias:
            return self.host_key_alias
        return self.host if self.port == _PORT else f"[{self.host}]:{self.port}"

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


@dataclass(frozen=True)
class KnownKeys:
    """The host keys, as "TYPE BASE64", that a host is known by, and those that it must not show."""

    keys: tuple[str, ...]
    revoked: frozenset[str]


def resolve(address: SshAddress) -> Target:
    """Add what the user's ssh_config says about a host, by the word of ssh itself; without ssh there is none.

    Raises:
        InputError: the ssh_config is not valid.
    """
    found = _said_by_ssh(address)
    port = int(found.get("port", [str(address.port or _PORT)])[0])
    user = address.user or found.get("user", [getpass.getuser()])[0]
    host = found.get("hostname", [address.host])[0]
    own = Path.home() / ".ssh"
    files = [Path(name).expanduser() for name in found.get("identityfile", [])]
    jumps = found.get("proxyjump", ["none"])[0]
    command = found.get("proxycommand", ["none"])[0]
    known = " ".join(found.get("userknownhostsfile", []) + found.get("globalknownhostsfile", []))
    for sign, meant in (("%h", host), ("%p", str(port)), ("%r", user), ("%n", address.host), ("%%", "%")):
        command = command.replace(sign, meant)
    return Target(
        alias=address.host,
        host=host,
        port=port,
        user=user,
        host_key=address.host_key,
        identities=tuple(files) or tuple(own / name for name in _DEFAULT_IDENTITIES),
        chosen=address.identity.expanduser() if address.identity else None,
        identities_only=found.get("identitiesonly", ["no"])[0] == "yes",
        jumps=() if jumps == "none" else tuple(jumps.split(",")),
        proxy_command=None if command == "none" else command,
        host_key_alias=found.get("hostkeyalias", [None])[0],
        known_hosts=tuple(Path(name).expanduser() for name in known.split()) or (own / "known_hosts",),
    )


def known_as(address: SshAddress) -> str:
    """Return the name that a known_hosts file has for a board."""
    return resolve(address).known_as


def known_hosts(target: Target) -> KnownKeys:
    """Return what the user's known_hosts says about a host."""
    program = shutil.which("ssh-keygen")
    keys, revoked = [], []
    for path in target.known_hosts if program else ():
        for line in _ask([str(program), "-F", target.known_as, "-f", str(path)]).stdout.splitlines():
            words = line.split()
            if line.startswith("@revoked"):
                revoked.append(" ".join(words[2:4]))
            elif not line.startswith(("#", "@")) and len(words) >= 3:
                keys.append(" ".join(words[1:3]))
    return KnownKeys(tuple(dict.fromkeys(keys)), frozenset(revoked))


def _said_by_ssh(address: SshAddress) -> dict[str, list[str]]:
    """Return the settings that `ssh -G` prints for a host, by their names."""
    program = shutil.which("ssh")
    if program is None:
        return {}
    command = [program, "-G"]
    home, password_home = Path.home(), Path(pwd.getpwuid(os.getuid()).pw_dir)
    if home != password_home and (home / ".ssh" / "config").is_file():
        command += ["-F", str(home / ".ssh" / "config")]  # ssh does not look at $HOME
    command += ["-p", str(address.port)] if address.port else []
    command += ["-l", address.user] if address.user else []
    done = _ask([*command, "--", address.host])
    if done.returncode != 0:
        raise InputError(
            f"ssh does not take its own configuration: {done.stderr.strip()}", hint="see ~/.ssh/config"
        )
    found: dict[str, list[str]] = {}
    for line in done.stdout.replace(f"{password_home}/.ssh/", f"{home}/.ssh/").splitlines():
        name, _, value = line.partition(" ")
        found.setdefault(name, []).append(value)
    return found


def _ask(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False
    )


def split_jump(text: str) -> tuple[str | None, str, int | None]:
    """Read one entry of ProxyJump: [user@]host[:port]."""
    address, colon, port = text.strip().rpartition(":")
    if not colon or not port.isdigit():
        address, port = text.strip(), ""
    user, host = parse_address(address.removeprefix("ssh://"))
    return user, host, int(port) if port else None
