"""What is found out about a board, and why some can have no agent."""

import os
import platform
import shutil
from dataclasses import replace

import pytest
from local_shell import LocalShell

from pipeline.device.provision.plan import agent_command, look_at
from pipeline.device.provision.probe import probe
from pipeline.device.shell import Completed
from pipeline.errors import InputError, TransportError

PI = {
    "machine": "aarch64",
    "system": "Linux",
    "uid": "1000",
    "user": "pi",
    "os": "Debian GNU/Linux 12 (bookworm)",
    "systemd": "yes",
    "python": "/usr/bin/python3",
    "version": "3.11.2",
    "implementation": "cpython",
    "abiflags": "",
    "bits": "64",
    "multiarch": "aarch64-linux-gnu",
    "libc": "glibc 2.36",
    "clock": "1790000000",
    "home": "/home/pi",
    "missing": "",
    "numpy": "",
    "cryptography": "",
    "free": "8000000000",
    "sudo": "free",
}


class SaidShell:
    """A board whose answer to the script is known."""

    name = "device 'rpi4'"

    def __init__(self, said, head="", status=0):
        self._answer = (
            head + "device-agent-probe\n" + "".join(f"{key}={value}\n" for key, value in said.items())
        )
        self._status = status

    def run(self, command, stdin=b"", *, timeout_s=60.0):
        return Completed(self._status, self._answer.encode(), b"")


def test_this_very_computer_is_known(tmp_path):
    facts = probe(LocalShell(tmp_path), "")
    assert facts.arch == {"arm64": "aarch64"}.get(platform.machine(), platform.machine())
    assert facts.home == str(tmp_path)
    assert facts.version[:2] >= (3, 9)
    assert facts.free_bytes > 0
    assert facts.is_root == (facts.uid == 0)


def test_a_raspberry_pi_is_known_behind_a_login_message():
    facts = probe(SaidShell(PI, head="Welcome!\nx=y\n"), "/opt/device-agent")
    assert (facts.arch, facts.version, facts.glibc) == ("aarch64", (3, 11, 2), (2, 36))
    assert (facts.user, facts.sudo, facts.systemd, facts.is_root) == ("pi", "free", True, False)


@pytest.mark.parametrize(
    ("machine", "bits", "multiarch", "arch"),
    [
        ("aarch64", "64", "aarch64-linux-gnu", "aarch64"),
        ("aarch64", "32", "arm-linux-gnueabihf", "armv7l"),  # a 64-bit kernel under a 32-bit system
        ("armv8l", "32", "arm-linux-gnueabihf", "armv7l"),
        ("armv7l", "32", "arm-linux-gnueabihf", "armv7l"),
        ("armv7l", "32", "cpython-311-arm-linux-gnueabihf", "armv7l"),
        ("x86_64", "64", "x86_64-linux-gnu", "x86_64"),
    ],
)
def test_the_userland_decides_the_architecture(machine, bits, multiarch, arch):
    assert probe(SaidShell({**PI, "machine": machine, "bits": bits, "multiarch": multiarch}), "").arch == arch


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"system": "Darwin"}, "its system is Darwin"),
        ({"python": ""}, "there is no python3"),
        ({"version": "3.8.10"}, "is Python 3.8.10"),
        ({"version": "2.7.18"}, "is Python 2.7.18"),
        ({"implementation": "pypy"}, "not plain CPython"),
        ({"abiflags": "t"}, "not plain CPython"),
        ({"libc": ""}, "musl"),
        ({"libc": "glibc 2.24"}, "glibc 2.24 is too old"),
        ({"missing": "json zlib"}, "lacks the modules json zlib"),
        ({"machine": "armv6l", "bits": "32", "multiarch": "arm-linux-gnueabihf"}, "32-bit ones for armv6l"),
        ({"machine": "armv7l", "bits": "32", "multiarch": "arm-linux-gnueabi"}, "32-bit ones for armv7l"),
        ({"machine": "x86_64", "bits": "32"}, "32-bit ones for x86_64"),
        ({"machine": "riscv64"}, "64-bit ones for riscv64"),
    ],
)
def test_a_board_that_cannot_have_an_agent_is_refused_with_the_reason(changes, why):
    with pytest.raises(InputError, match=why) as raised:
        probe(SaidShell({**PI, **changes}), "")
    assert "Debian GNU/Linux 12" in raised.value.message


def test_no_systemd_leaves_the_rootless_way():
    said = {key: value for key, value in PI.items() if key != "systemd"}
    with pytest.raises(InputError, match="no systemd") as raised:
        look_at(SaidShell(said), system=True)
    assert "--user" in raised.value.hint
    assert look_at(SaidShell(said), system=False).arch == "aarch64"


def test_a_python_in_a_home_folder_runs_no_service():
    with pytest.raises(InputError, match="which a service may not see"):
        look_at(SaidShell({**PI, "python": "/home/pi/.pyenv/bin/python3"}), system=True)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (None, "there is no python3"),
        ('echo python=/opt/python3; echo "version=3.7.3"; echo implementation=cpython', "is Python 3.7.3"),
        (
            "echo python=/opt/python3; echo version=3.11.2; echo implementation=cpython; echo abiflags=; echo libc=",
            "musl",
        ),
    ],
)
def test_the_script_runs_what_python_there_is(tmp_path, script, why):
    """A PATH with the usual tools, and a python3 of ours or none."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "uname", "id", "test"):
        (tools / name).symlink_to(shutil.which(name))
    if script is not None:
        (tools / "python3").write_text(f"#!/bin/sh\n{script}\n")
        (tools / "python3").chmod(0o755)
    shell = LocalShell(tmp_path, path=str(tools))
    if script is None and any(
        os.access(path, os.X_OK) for path in ("/usr/bin/python3", "/usr/local/bin/python3")
    ):
        pytest.skip("this computer has a python3 where boards have theirs")
    with pytest.raises(InputError, match=why):
        probe(shell, "")


def test_a_key_that_is_bound_to_one_command_cannot_provision():
    class Bound(SaidShell):
        def run(self, command, stdin=b"", *, timeout_s=60.0):
            return Completed(0, b'\0\0\0"{"error": ...}', b"device-agent: no hello")

    with pytest.raises(TransportError, match="no shell answers") as raised:
        probe(Bound(PI), "")
    assert "bound to one command" in raised.value.hint


def test_the_agents_command_is_quoted():
    facts = replace(probe(SaidShell(PI), ""), home="/home/two words")
    assert agent_command(facts, system=True) == "/usr/local/bin/device-agent stdio"
    wanted = "'/home/two words/.local/share/device-agent/bin/device-agent' stdio --standalone"
    assert agent_command(facts, system=False) == wanted
