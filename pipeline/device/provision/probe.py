"""Looks at a board by one small script for any POSIX shell, and says what keeps an agent from running there."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

from pipeline.device.shell import Shell
from pipeline.errors import InputError, TransportError

OLDEST_PYTHON = (3, 9)
OLDEST_GLIBC = (2, 27)  # the oldest that a runtime's package is built for
_PROBE_S = 60.0
_MARK = "device-agent-probe"
# what the agent imports and some distributions leave out of their small Python
_MODULES = (
    "argparse array base64 contextlib fcntl grp hashlib importlib.metadata json mmap pwd py_compile queue resource "
    "select selectors signal socket statistics struct subprocess tempfile termios threading zipfile zlib"
)

_PYTHON = """\
import os, platform, struct, sys, sysconfig, time
def say(key, value): print("%s=%s" % (key, value))
say("python", sys.executable)
say("version", "%d.%d.%d" % sys.version_info[:3])
say("implementation", sys.implementation.name)
say("abiflags", getattr(sys, "abiflags", ""))
say("bits", struct.calcsize("P") * 8)
say("multiarch", sysconfig.get_config_var("MULTIARCH") or sysconfig.get_config_var("SOABI") or "")
try: say("libc", os.confstr("CS_GNU_LIBC_VERSION") or "")
except (ValueError, OSError, AttributeError): say("libc", "")
say("clock", int(time.time()))
say("home", os.path.expanduser("~"))
missing = []
for name in sys.argv[1].split():
    try: __import__(name)
    except ImportError: missing.append(name)
say("missing", " ".join(missing))
for name in ("numpy", "cryptography", "_cffi_backend"):
    try: say(name, __import__(name).__version__)
    except Exception: say(name, "")
place = sys.argv[2] or os.path.expanduser("~")
while not os.path.isdir(place): place = os.path.dirname(place)
disk = os.statvfs(place)
say("free", disk.f_bavail * disk.f_frsize)
"""

_SCRIPT = """\
echo {mark}
echo "machine=$(uname -m)"; echo "system=$(uname -s)"
echo "uid=$(id -u)"; echo "user=$(id -un)"
echo "os=$(. /etc/os-release 2>/dev/null; echo "$PRETTY_NAME")"
test -d /run/systemd/system && echo systemd=yes
for each in python3 /usr/bin/python3 /usr/local/bin/python3; do
  found=$(command -v "$each" 2>/dev/null) && "$found" -I -c {python} {modules} {place} </dev/null && break
done
if command -v sudo >/dev/null 2>&1; then
  if sudo -n true </dev/null >/dev/null 2>&1; then echo sudo=free; else echo sudo=password; fi
fi
true
"""


@dataclass(frozen=True)
class BoardFacts:
    """What a board is, as far as it decides what can be installed there.

    Attributes:
        arch: of the programs that run there ("aarch64", "armv7l", "x86_64"), which a 64-bit kernel does not decide.
        python: path of the interpreter.
        version: its version, such as (3, 11, 2).
        glibc: version of the C library.
        os: its name, for people.
        user: who we are there.
        uid: the number of that user; 0 may do everything.
        home: that user's home folder.
        sudo: "free", "password", or "" where there is none.
        systemd: it runs services.
        free_bytes: room where the agent is to be installed.
        clock: the board's time, seconds since 1970.
        numpy: version of the system's own, empty if there is none.
        cryptography: the same.
        cffi: the same; cryptography needs it.
    """

    arch: str
    python: str
    version: tuple[int, int, int]
    glibc: tuple[int, int]
    os: str
    user: str
    uid: int
    home: str
    sudo: str
    systemd: bool
    free_bytes: int
    clock: int
    numpy: str
    cryptography: str
    cffi: str

    @property
    def is_root(self) -> bool:
        """Whether nothing need be asked of sudo."""
        return self.uid == 0

    def __str__(self) -> str:
        version = ".".join(map(str, self.version))
        return f"{self.os or 'Linux'}, {self.arch}, Python {version}, glibc {self.glibc[0]}.{self.glibc[1]}"


def probe(shell: Shell, place: str) -> BoardFacts:
    """Look at a board.

    Args:
        shell: the way there.
        place: where the agent is to be installed; empty: the user's home folder.

    Raises:
        InputError: no agent can run there, and why.
        TransportError: the link broke, or what answered is no POSIX shell.
    """
    script = _SCRIPT.format(
        mark=_MARK, python=shlex.quote(_PYTHON), modules=shlex.quote(_MODULES), place=shlex.quote(place)
    )
    done = shell.run("sh -s", script.encode(), timeout_s=_PROBE_S)
    head, mark, body = done.stdout.decode("utf-8", "replace").partition(_MARK)
    if not mark:
        words = (done.stderr.decode("utf-8", "replace") or head).strip()[:300]
        raise TransportError(
            f"{shell.name}: no shell answers there: {words or 'nothing was said'}",
            hint="a key that is bound to one command cannot provision; use another key for that",
        )
    said = dict(line.partition("=")[::2] for line in body.splitlines() if "=" in line)
    return _facts(said, shell.name)


def _facts(said: dict[str, str], name: str) -> BoardFacts:
    """Turn what the script printed into facts, or say why there can be no agent."""

    def refuse(what: str, hint: str = "") -> InputError:
        where = f" ({said['os']})" if said.get("os") else ""
        return InputError(f"{name}: the agent cannot run on this board{where}: {what}", hint=hint)

    if said.get("system") != "Linux":
        raise refuse(f"its system is {said.get('system') or 'unknown'}, not Linux")
    if not said.get("python"):
        raise refuse("there is no python3", "install Python 3.9 or newer, such as the package python3")
    version = _numbers(said.get("version", ""), 3)
    if version[:2] < OLDEST_PYTHON:
        raise refuse(
            f"its {said['python']} is Python {said['version']}", "the agent needs Python 3.9 or newer"
        )
    if said.get("implementation") != "cpython" or said.get("abiflags"):
        raise refuse(
            f"its {said['python']} is {said.get('implementation')} {said.get('abiflags')}, not plain CPython"
        )
    glibc = _numbers(said.get("libc", "").removeprefix("glibc "), 2)
    if not said.get("libc", "").startswith("glibc "):
        raise refuse("its C library is not glibc (musl?)", "no model runtime has packages for it")
    if glibc < OLDEST_GLIBC:
        raise refuse(
            f"its {said['libc']} is too old", "no model runtime has packages for it; 2.27 or newer is needed"
        )
    if said.get("missing"):
        raise refuse(f"its Python lacks the modules {said['missing']}", "install the whole standard library")
    arch = _arch(said)
    if arch is None:
        raise refuse(
            f"its programs are {said.get('bits')}-bit ones for {said.get('machine')}",
            "64-bit ARM, 32-bit ARM with hardware floating point (ARMv7) and x86-64 are known",
        )
    return BoardFacts(
        arch=arch,
        python=said["python"],
        version=(version[0], version[1], version[2]),
        glibc=(glibc[0], glibc[1]),
        os=said.get("os", ""),
        user=said.get("user", ""),
        uid=int(said.get("uid") or -1),
        home=said.get("home", ""),
        sudo=said.get("sudo", ""),
        systemd="systemd" in said,
        free_bytes=int(said.get("free") or 0),
        clock=int(said.get("clock") or 0),
        numpy=said.get("numpy", ""),
        cryptography=said.get("cryptography", ""),
        cffi=said.get("_cffi_backend", ""),
    )


def _arch(said: dict[str, str]) -> str | None:
    """Return the architecture of the userland; the kernel's alone would be wrong on many 32-bit systems."""
    machine, bits = said.get("machine", ""), said.get("bits")
    if bits == "64":
        return {"aarch64": "aarch64", "arm64": "aarch64", "x86_64": "x86_64"}.get(machine)
    if machine in ("aarch64", "armv7l", "armv8l") and "gnueabihf" in said.get("multiarch", "gnueabihf"):
        return "armv7l"
    return None


def _numbers(text: str, count: int) -> tuple[int, ...]:
    parts = [int(part) if part.isdigit() else 0 for part in text.split(".")[:count]]
    return tuple(parts + [0] * (count - len(parts)))
