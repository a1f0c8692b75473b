"""Addresses with no board behind them: each ends soon, with a line that says what is there instead."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest
from flaky_proxy import FlakyProxy
from ssh_processes import free_port
from ssh_user import Ran, User
from sshd import Server

from pipeline.device.ssh import connection

Talk = Callable[[socket.socket], None]


@contextmanager
def listening(talk: Talk) -> Iterator[int]:
    """A server that says `talk` to everybody; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    caller, _ = listener.accept()
                    threading.Thread(target=answer, args=(caller,), daemon=True).start()

        def answer(caller: socket.socket) -> None:
            with caller, suppress(OSError):
                talk(caller)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def say(*parts: bytes, stay: bool = False) -> Talk:
    """Say these, then hang up or wait for the other to do so."""

    def talk(caller: socket.socket) -> None:
        for part in parts:
            caller.sendall(part)
        while stay and caller.recv(4096):
            pass

    return talk


def babble(caller: socket.socket) -> None:
    """Say what is no line, without end."""
    while True:
        caller.sendall(b"x" * 65536)


def prattle(caller: socket.socket) -> None:
    """Say lines without end: a server may say some before its greeting."""
    while True:
        caller.sendall(b"please wait\r\n" * 1000)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONNECT_S", "HANDSHAKE_S", "AUTHENTICATE_S"):
        assert hasattr(connection, name)
        monkeypatch.setattr(connection, name, 1.0)


def enroll(user: User, port: int, host: str = "127.0.0.1") -> Ran:
    begun = time.monotonic()
    done = user.run("device", "enroll", "rpi4", f"pi@{host}", "--port", str(port), "--yes")
    assert time.monotonic() - begun < 10
    assert done.err.startswith("error: device 'rpi4': "), done.err
    assert user.devices == []
    return done


def test_a_port_where_nobody_listens(user: User) -> None:
    port = free_port()
    done = enroll(user, port)
    assert done.code == 4
    assert f"127.0.0.1:{port}: nobody listens there" in done.err


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64, "host..name", "x" * 300])
def test_a_host_that_nobody_knows(user: User, host: str) -> None:
    done = enroll(user, 22, host)
    assert done.code == 4
    assert "no such host" in done.err
    assert "~/.ssh/config" in done.err or "ssh_config" in done.err


@pytest.mark.parametrize(
    "talk",
    [
        say(),
        say(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"),
        say(b"220 mail.example ESMTP\r\n", stay=True),
        say(b"\x00\x01\x02\xff" * 1000, stay=True),
        say(b"SSH-1.5-old\r\n", stay=True),
        say(b"SSH-2.0-odd\r\n", b"\xff" * 5000, stay=True),
        say(b"SSH-2.0-odd\r\n", b"\x00\x00\x00\x0c\x0a\x14" + b"\x00" * 10, stay=True),
        say(b"SSH-2.0-gone\r\n"),
        babble,
        prattle,
    ],
    ids=["hangs up", "web", "mail", "bytes", "ssh1", "noise", "no algorithms", "goes", "babbles", "prattles"],
)
def test_something_that_is_no_ssh_server(user: User, talk: Talk) -> None:
    with listening(talk) as port:
        done = enroll(user, port)
    assert done.code == 4
    assert f"127.0.0.1:{port}" in done.err
    assert "SSH server" in done.err


@pytest.mark.parametrize("talk", [say(stay=True), say(b"SSH-2.0-slow\r\n", stay=True)])
def test_something_that_says_nothing(user: User, talk: Talk) -> None:
    with listening(talk) as port:
        done = enroll(user, port)
    assert done.code == 4
    assert f"127.0.0.1:{port}" in done.err
    assert "no answer" in done.err


def test_a_server_with_old_ciphers_only(server: Callable[..., Server], user: User) -> None:
    one = server(settings=["Ciphers aes128-cbc"])
    done = enroll(user, one.port)
    assert done.code == 4
    assert "cipher" in done.err


def test_a_link_that_passes_nothing_and_the_next_try(server: Callable[..., Server], user: User) -> None:
    one = server()
    user.knows(one)
    with FlakyProxy(one.port) as proxy:
        user.knows(one, port=proxy.port)
        proxy.stall()
        begun = time.monotonic()
        done = user.run("device", "logs", "board")
        assert done.code == 4
        assert "no answer" in done.err
        assert time.monotonic() - begun < 10
        proxy.flow()
        assert user.run("device", "logs", "board").code == 0


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.6, 0.8, 0.95])
def test_a_link_that_is_cut_while_one_logs_in_and_the_next_try(
    server: Callable[..., Server], user: User, part: float
) -> None:
    one = server()
    with FlakyProxy(one.port) as proxy:
        user.knows(one, port=proxy.port)
        assert user.run("device", "logs", "board").code == 0
        whole, proxy.cut_after = proxy.sent, 1 + int(part * proxy.sent)
        done = user.run("device", "logs", "board")
        assert (done.code, proxy.cuts) == (4, 1), (done, whole)
        assert done.err.startswith("error: device 'board': ")
        assert user.run("device", "logs", "board").code == 0
