"""`pipeline device enroll` and what comes after it, as a user types it, against real SSH servers."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tomllib
from collections.abc import Callable

import pytest
from ssh_board import Board
from ssh_keys import Key
from ssh_processes import free_port
from ssh_user import ROOT, Ran, User
from sshd import Dropbear, Server, Sshd


def enroll(user: User, server: Server, *options: str, name: str = "rpi4", login: str = "pi") -> Ran:
    return user.run("device", "enroll", name, f"{login}@127.0.0.1", "--port", str(server.port), *options)


@pytest.mark.parametrize("host_key", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("kind", [Sshd, Dropbear])
def test_a_board_is_pinned_by_the_fingerprint_that_its_owner_read(
    server: Callable[..., Server], user: User, kind: type[Server], host_key: str
) -> None:
    one = server(kind, host_key=host_key)
    done = enroll(user, one, "--fingerprint", one.fingerprint)
    assert (done.code, done.err) == (0, "")
    assert "rpi4 is known now" in done.out
    assert "pipeline device provision rpi4" in done.out
    listed = tomllib.loads((user.home / ".config/pipeline/devices/rpi4.toml").read_text())
    assert listed == {
        "transport": "ssh",
        "host": "127.0.0.1",
        "port": one.port,
        "user": "pi",
        "host_key": one.host_key,
        "agent": "device-agent stdio",
        "profile": "rpi4",
    }


def test_a_board_that_is_enrolled_is_listed_asked_and_forgotten(board: Board, user: User) -> None:
    assert enroll(user, board.server, "--fingerprint", board.server.fingerprint).code == 0
    listed = json.loads(user.run("device", "list", "--json").out)
    assert [row["device"] for row in listed] == ["local", "rpi4"]
    assert "127.0.0.1" in user.run("device", "list").out
    status = user.run("device", "status", "rpi4")
    assert status.code == 0, status.err
    assert json.loads(status.out)["board"]["cores"] == len(os.sched_getaffinity(0))
    assert user.run("device", "forget", "rpi4").code == 0
    assert user.devices == []
    again = user.run("device", "forget", "rpi4")
    assert again.code == 2
    assert "no device is called 'rpi4'" in again.err


def test_the_same_from_a_shell(board: Board, user: User) -> None:
    address = ["pi@127.0.0.1", "--port", str(board.server.port)]
    done = user.run_apart("device", "enroll", "rpi4", *address, "--fingerprint", board.server.fingerprint)
    assert (done.code, done.err) == (0, "")
    status = user.run_apart("device", "status", "rpi4")
    assert (status.code, status.err) == (0, "")
    assert json.loads(status.out)["agent_version"]


def test_another_fingerprint_than_the_boards_is_refused_and_nothing_is_written(
    server: Callable[..., Server], user: User, other_key: Key
) -> None:
    one = server()
    done = enroll(user, one, "--fingerprint", other_key.fingerprint)
    assert done.code == 4
    assert one.fingerprint in done.err
    assert other_key.fingerprint in done.err
    assert user.devices == []
    assert enroll(user, one, "--fingerprint", one.fingerprint).code == 0


def test_without_a_terminal_an_unknown_key_is_not_accepted(server: Callable[..., Server], user: User) -> None:
    one = server()
    done = user.run_apart("device", "enroll", "rpi4", "pi@127.0.0.1", "--port", str(one.port), stdin="yes\n")
    assert done.code == 2
    assert one.fingerprint in done.err
    assert "no terminal" in done.err
    assert user.devices == []
    assert enroll(user, one, "--yes").code == 0


@pytest.mark.parametrize(("answer", "code", "files"), [("y", 0, ["rpi4.toml"]), ("n", 2, [])])
def test_at_a_terminal_the_user_is_shown_the_key_and_asked(
    server: Callable[..., Server], user: User, answer: str, code: int, files: list[str]
) -> None:
    one = server()
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pipeline",
            "device",
            "enroll",
            "rpi4",
            "pi@127.0.0.1",
            "--port",
            str(one.port),
        ],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    os.write(ours, f"{answer}\n".encode())
    said = "".join(process.communicate(timeout=60))
    os.close(ours)
    os.close(theirs)
    assert process.returncode == code, said
    assert one.fingerprint in said
    assert "is it the board's?" in said
    assert user.devices == files


def test_a_key_that_the_users_own_ssh_knows_needs_no_question(
    server: Callable[..., Server], user: User
) -> None:
    one = server()
    (user.ssh / "known_hosts").write_text(f"[127.0.0.1]:{one.port} {one.host_key}\n")
    done = enroll(user, one)
    assert done.code == 0, done.err
    assert "your own ssh knows it" in done.err
    assert user.devices == ["rpi4.toml"]


def test_a_board_that_the_users_own_ssh_knows_by_another_key_is_refused(
    server: Callable[..., Server], user: User, other_key: Key
) -> None:
    one = server()
    (user.ssh / "known_hosts").write_text(f"[127.0.0.1]:{one.port} {other_key.public}\n")
    for how in ([], ["--yes"]):
        done = enroll(user, one, *how)
        assert done.code == 4
        assert one.fingerprint in done.err
        assert other_key.fingerprint in done.err
        assert f"ssh-keygen -R '[127.0.0.1]:{one.port}'" in done.err
        assert user.devices == []


@pytest.mark.parametrize(
    "line",
    [
        "[127.0.0.1]:{port} ssh-ed25519 %%%not-base64%%%",
        "@cert-authority *.example {key}",
        "@revoked [127.0.0.1]:1 {key}",
        "\x00\x01\x02 binary",
        "one",
    ],
)
def test_lines_of_known_hosts_that_make_no_sense_do_no_harm(
    server: Callable[..., Server], user: User, line: str
) -> None:
    one = server()
    known = f"[127.0.0.1]:{one.port} {one.host_key}\n"
    (user.ssh / "known_hosts").write_text(line.format(port=one.port, key=user.key.public) + "\n" + known)
    done = enroll(user, one)
    assert done.code == 0, done.err
    assert "your own ssh knows it" in done.err


def test_a_key_that_the_user_revoked_is_not_accepted(server: Callable[..., Server], user: User) -> None:
    one = server()
    (user.ssh / "known_hosts").write_text(f"@revoked [127.0.0.1]:{one.port} {one.host_key}\n")
    done = enroll(user, one, "--yes")
    assert done.code == 4
    assert "revoked" in done.err
    assert user.devices == []


def test_a_board_that_is_installed_anew_is_refused_until_it_is_enrolled_anew(
    board: Board, user: User
) -> None:
    server = board.server
    assert enroll(user, server, "--yes").code == 0
    before, pinned = server.key, server.fingerprint
    try:
        for kind in ("ed25519", "rsa"):
            server.new_host_key(kind)
            server.restart()
            for ask in (["device", "status", "rpi4"], ["device", "logs", "rpi4"]):
                done = user.run(*ask)
                assert done.code == 4
                assert pinned in done.err
                assert server.fingerprint in done.err
                assert "pinned" in done.err
                assert "device forget" in done.err
        assert user.run("device", "forget", "rpi4").code == 0
        assert enroll(user, server, "--fingerprint", server.fingerprint).code == 0
        assert user.run("device", "status", "rpi4").code == 0
    finally:
        server.key = before
        server.restart()


def test_a_pinned_key_that_the_board_has_besides_newer_ones_is_asked_for(
    server: Callable[..., Server], user: User
) -> None:
    """A board has keys of several kinds; the pinned one must be asked for, not the kind that is preferred."""
    one = server(host_key="rsa")
    assert enroll(user, one, "--yes").code == 0
    rsa = one.key
    newer = one.new_host_key("ed25519")
    one.key = rsa
    one.settings.append(f"HostKey {newer.path}")
    one.restart()
    done = user.run("device", "logs", "rpi4")
    assert "host key" not in done.err, done.err


def test_enrolling_again_replaces_the_board(server: Callable[..., Server], user: User) -> None:
    first, second = server(), server()
    assert enroll(user, first, "--yes").code == 0
    assert enroll(user, second, "--fingerprint", first.fingerprint).code == 4
    listed = (user.home / ".config/pipeline/devices/rpi4.toml").read_text()
    assert str(first.port) in listed
    assert enroll(user, second, "--yes").code == 0
    listed = (user.home / ".config/pipeline/devices/rpi4.toml").read_text()
    assert second.host_key in listed
    assert first.host_key not in listed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["../etc", "pi@127.0.0.1"], "a device's name is made of"),
        (["-x", "pi@127.0.0.1"], "No such option"),
        (["rpi4", "pi@"], "no address of a board"),
        (["rpi4", "pi@127.0.0.1:22"], "--port"),
        (["rpi4", "pi@one@two"], "no address of a board"),
        (["rpi4", "pi@127.0.0.1", "--port", "0"], "--port"),
        (["rpi4", "pi@127.0.0.1", "--port", "ssh"], "--port"),
        (["rpi4", "pi@127.0.0.1", "--identity", "/no/such/key"], "--identity"),
        (["shelf", "pi@127.0.0.1"], "--profile"),
        (["rpi4", "pi@127.0.0.1", "--profile", "rpi400"], "rpi400"),
        (["rpi4"], "Missing argument"),
    ],
)
def test_wrong_usage_is_told_before_anything_is_asked(user: User, arguments: list[str], words: str) -> None:
    done = user.run("device", "enroll", *arguments)
    assert done.code == 2
    assert words in done.err
    assert user.devices == []


def test_a_registry_that_cannot_be_written_is_told(server: Callable[..., Server], user: User) -> None:
    one = server()
    (user.home / ".config").mkdir()
    (user.home / ".config" / "pipeline").write_text("a file where a folder should be")
    done = enroll(user, one, "--yes")
    assert done.code == 2
    assert str(user.home / ".config" / "pipeline") in done.err
    (user.home / ".config" / "pipeline").unlink()
    assert enroll(user, one, "--yes").code == 0
    assert user.devices == ["rpi4.toml"]


def test_a_port_that_nobody_has_is_told_and_nothing_is_written(user: User) -> None:
    done = user.run("device", "enroll", "rpi4", "pi@127.0.0.1", "--port", str(free_port()), "--yes")
    assert done.code == 4
    assert "nobody listens" in done.err
    assert user.devices == []
