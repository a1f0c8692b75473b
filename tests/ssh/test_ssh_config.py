"""What the user's ssh_config says of a board: aliases, jump hosts, proxy commands, and what makes no sense."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ssh_board import Board
from ssh_keys import Key
from ssh_user import User
from sshd import Server


def test_an_alias_of_the_ssh_config_is_a_host(server: Callable[..., Server], user: User, tmp_path) -> None:
    key = Key(tmp_path / "fleet")
    one = server(authorized=[key.public])
    user.config(
        f"Host shelf\n  HostName 127.0.0.1\n  Port {one.port}\n  User pi\n  IdentityFile {key.path}\n"
        "Host *\n  ServerAliveInterval 5\n  Compression yes\n"
    )
    done = user.run("device", "enroll", "shelf", "shelf", "--profile", "rpi4", "--yes")
    assert done.code == 0, done.err
    listed = (user.home / ".config/pipeline/devices/shelf.toml").read_text()
    assert 'host = "shelf"' in listed
    assert str(one.port) not in listed
    assert user.tries("shelf").got_in


def test_an_alias_in_an_included_file_is_a_host_too(server: Callable[..., Server], user: User) -> None:
    one = server()
    (user.ssh / "boards.conf").write_text(f"Host shelf\n  HostName 127.0.0.1\n  Port {one.port}\n  User pi\n")
    user.config(f"Include {user.ssh}/boards.conf\n")
    assert user.run("device", "enroll", "shelf", "shelf", "--profile", "rpi4", "--yes").code == 0


def test_what_the_registry_says_comes_before_the_ssh_config(
    server: Callable[..., Server], user: User
) -> None:
    user.config("Host 127.0.0.1\n  Port 1\n  User nobody-here\n")
    user.knows(server())
    assert user.tries().got_in


@pytest.mark.parametrize(
    "text",
    [
        "Host shelf\n  Port abc\n",
        "Host shelf\n  Port 99999\n",
        "Match nonsense\n  Port 22\n",
        "Host 'open\n",
        "\x00\xff",
        "Host shelf\n  ProxyJump shelf\n  HostName 127.0.0.1\n",
        "Host shelf\n  HostName 127.0.0.1\n  Port 1\n  ProxyCommand /no/such/program\n",
        "Host shelf\n  HostName 127.0.0.1\n  ProxyCommand exit 1\n",
        "Host shelf\n  HostName 127.0.0.1\n  ProxyCommand 'unbalanced\n",
        'Match exec "exit 1"\n  Port 5\nHost shelf\n  HostName 127.0.0.1\n  Port 1\n',
    ],
)
def test_an_ssh_config_that_makes_no_sense_is_one_clear_line(user: User, text: str) -> None:
    user.config(text)
    done = user.run("device", "enroll", "shelf", "pi@shelf", "--profile", "rpi4", "--yes")
    assert done.code in (2, 4)
    assert done.err.startswith("error: ")
    assert user.devices == []


def test_a_board_behind_a_jump_host(
    new_board: Callable[..., Board], server: Callable[..., Server], user: User
) -> None:
    inner, gate = new_board(), server()
    user.config(
        f"Host gate\n  HostName 127.0.0.1\n  Port {gate.port}\n  User pi\n"
        f"Host inner\n  HostName 127.0.0.1\n  Port {inner.server.port}\n  User pi\n  ProxyJump gate\n"
    )
    enroll = ["device", "enroll", "inner", "inner", "--profile", "rpi4", "--yes"]
    refused = user.run(*enroll)
    assert refused.code == 4
    assert "jump host" in refused.err
    assert "known_hosts" in refused.err
    (user.ssh / "known_hosts").write_text(f"[127.0.0.1]:{gate.port} {gate.host_key}\n")
    done = user.run(*enroll)
    assert done.code == 0, done.err
    assert "Accepted publickey for pi" in gate.log.read_text()
    assert '"agent_version"' in user.run("device", "status", "inner").out
    gate.new_host_key()
    gate.restart()
    changed = user.run("device", "status", "inner")
    assert changed.code == 4
    assert "jump host" in changed.err
    assert gate.fingerprint in changed.err
    gate.stop()
    gone = user.run("device", "status", "inner")
    assert gone.code == 4
    assert "jump host" in gone.err


def test_a_jump_host_that_does_not_reach_the_board(server: Callable[..., Server], user: User) -> None:
    gate = server()
    user.config(
        f"Host gate\n  HostName 127.0.0.1\n  Port {gate.port}\n  User pi\n"
        "Host inner\n  HostName 127.0.0.1\n  Port 1\n  User pi\n  ProxyJump gate\n"
    )
    (user.ssh / "known_hosts").write_text(f"[127.0.0.1]:{gate.port} {gate.host_key}\n")
    done = user.run("device", "enroll", "inner", "inner", "--profile", "rpi4", "--yes")
    assert done.code == 4
    assert "inner" in done.err
    gate.settings.append("AllowTcpForwarding no")
    gate.restart()
    done = user.run("device", "enroll", "inner", "inner", "--profile", "rpi4", "--yes")
    assert done.code == 4
    assert "prohibited" in done.err


def test_a_proxy_command_of_the_ssh_config(server: Callable[..., Server], user: User) -> None:
    one = server()
    user.config(
        "Host shelf\n  HostName 127.0.0.1\n  User pi\n"
        '  ProxyCommand python3 -c "import socket,sys,threading,os;'
        "s=socket.create_connection(('%h',%p));"
        "threading.Thread(target=lambda:[s.sendall(d) for d in iter(lambda:os.read(0,9999),b'')],daemon=True).start();"
        "[os.write(1,d) for d in iter(lambda:s.recv(9999),b'')]\"\n"
    )
    done = user.run(
        "device", "enroll", "shelf", "shelf", "--port", str(one.port), "--profile", "rpi4", "--yes"
    )
    assert done.code == 0, done.err
    assert user.tries("shelf").got_in
