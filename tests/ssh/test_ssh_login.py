"""Who gets in: keys, agents, aliases and jump hosts of the user, and what is said when nobody does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest
from ssh_keys import Key, need
from ssh_user import Ran, User
from sshd import Dropbear, Server, Sshd

PASSPHRASE = "open sesame"  # noqa: S105 - of keys that live as long as a test


@pytest.fixture
def ssh_agent(user: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Starts a real ssh-agent for the user and adds keys to it."""
    socket = user.home / "agent.sock"
    command = [need("ssh-agent", "openssh-client"), "-D", "-a", str(socket)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))

    def add(key: Key, passphrase: str = "") -> None:
        asking = user.home / "askpass"
        asking.write_text(f"#!/bin/sh\necho '{passphrase}'\n")
        asking.chmod(0o700)
        asked = {"SSH_ASKPASS": str(asking), "SSH_ASKPASS_REQUIRE": "force"}
        for _ in range(100):
            done = subprocess.run(
                ["ssh-add", key.path], env={**os.environ, **asked}, capture_output=True, check=False
            )
            if done.returncode == 0:
                return
        raise AssertionError(done.stderr)

    yield add
    process.terminate()
    process.wait()


# --- nobody gets in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Sshd, Dropbear])
def test_a_key_that_the_board_does_not_know(
    server: Callable[..., Server], user: User, other_key: Key, kind: type[Server]
) -> None:
    one = server(kind, [other_key.public])
    done = user.run("device", "enroll", "rpi4", "pi@127.0.0.1", "--port", str(one.port), "--yes")
    assert done.code == 4
    assert "pi@127.0.0.1" in done.err
    assert "id_ed25519" in done.err
    assert f"ssh-copy-id -p {one.port} pi@127.0.0.1" in done.err
    assert user.devices == []
    one.authorize([user.key.public])
    assert user.run("device", "enroll", "rpi4", "pi@127.0.0.1", "--port", str(one.port), "--yes").code == 0


@pytest.mark.parametrize("kind", [Sshd, Dropbear])
def test_a_user_that_the_board_does_not_have(
    server: Callable[..., Server], user: User, kind: type[Server]
) -> None:
    user.knows(server(kind), user="nobody-here")
    done = user.tries()
    assert done.code == 4
    assert "nobody-here@127.0.0.1" in done.err
    assert "user" in done.err


def test_a_user_that_the_board_lets_nobody_be(server: Callable[..., Server], user: User) -> None:
    one = server(settings=["AllowUsers guest"])
    user.knows(one)
    done = user.tries()
    assert (done.code, "pi@127.0.0.1" in done.err) == (4, True)
    one.settings.clear()
    one.restart()
    assert user.tries().got_in


def test_a_board_that_takes_passwords_only(server: Callable[..., Server], user: User) -> None:
    user.knows(server(settings=["PubkeyAuthentication no", "PasswordAuthentication yes"]))
    done = user.tries()
    assert done.code == 4
    assert "password" in done.err
    assert "ssh-copy-id" in done.err


def test_a_board_that_wants_more_than_a_key(server: Callable[..., Server], user: User) -> None:
    user.knows(server(settings=["AuthenticationMethods publickey,password", "PasswordAuthentication yes"]))
    done = user.tries()
    assert done.code == 4
    assert "password" in done.err


def test_somebody_without_any_key(server: Callable[..., Server], user: User) -> None:
    user.knows(server())
    (user.ssh / "id_ed25519").unlink()
    done = user.tries()
    assert done.code == 4
    assert "ssh-keygen" in done.err


def test_a_file_that_is_no_key_is_named(server: Callable[..., Server], user: User) -> None:
    wrong = user.home / "notes.txt"
    wrong.write_text("not a key")
    one = server()
    address = ["rpi4", "pi@127.0.0.1", "--port", str(one.port), "--yes"]
    done = user.run("device", "enroll", *address, "--identity", str(wrong))
    assert done.code == 2
    assert str(wrong) in done.err
    public = user.run("device", "enroll", *address, "--identity", str(user.ssh / "id_ed25519.pub"))
    assert public.code == 2
    assert "id_ed25519.pub" in public.err
    assert user.devices == []


def test_a_default_key_that_cannot_be_used_does_not_stand_in_the_way_of_another(
    server: Callable[..., Server], user: User, tmp_path
) -> None:
    user.knows(server())
    (user.ssh / "id_rsa").write_bytes((user.ssh / "id_ed25519").read_bytes())
    for spoiled in ("not a key", Key(tmp_path / "locked", "ed25519", PASSPHRASE).path.read_text()):
        (user.ssh / "id_ed25519").write_text(spoiled)
        assert user.tries().got_in, user.tries().err


def test_too_many_keys_end_the_talk_and_it_is_said(
    server: Callable[..., Server], user: User, other_key: Key, ssh_agent: Callable[..., None], tmp_path
) -> None:
    one = server(settings=["MaxAuthTries 2"])
    user.knows(one)
    for number in range(4):
        ssh_agent(Key(tmp_path / f"key{number}"))
    done = user.tries()
    assert done.code == 4
    assert "--identity" in done.err
    user.knows(one, identity=user.ssh / "id_ed25519")
    assert user.tries().got_in


# --- keys of all kinds --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
@pytest.mark.parametrize("program", [Sshd, Dropbear])
def test_an_identity_of_another_kind_by_name(
    server: Callable[..., Server], user: User, tmp_path, program: type[Server], kind: str
) -> None:
    key = Key(tmp_path / "fleet", kind)
    one = server(program, [key.public])
    assert not status_after(user, one).got_in
    assert status_after(user, one, identity=key.path).got_in


def status_after(user: User, one: Server, **changes) -> Ran:
    user.knows(one, **changes)
    return user.tries()


def test_a_key_of_the_ssh_agent(
    server: Callable[..., Server], user: User, other_key: Key, ssh_agent: Callable[..., None], tmp_path
) -> None:
    key = Key(tmp_path / "held")
    user.knows(server(authorized=[key.public]))
    assert "of these keys" in user.tries().err
    ssh_agent(key)
    assert user.tries().got_in


@pytest.mark.parametrize("sock", ["nothing", "a file"])
def test_an_ssh_agent_that_is_not_there_does_no_harm(
    server: Callable[..., Server], user: User, monkeypatch: pytest.MonkeyPatch, sock: str
) -> None:
    user.knows(server())
    (user.home / "a file").write_text("")
    monkeypatch.setenv("SSH_AUTH_SOCK", str(user.home / sock))
    assert user.tries().got_in


@pytest.mark.parametrize("how", ["named", "config", "default"])
def test_a_key_with_a_passphrase_is_used_from_the_agent_or_asked_for(
    server: Callable[..., Server], user: User, ssh_agent: Callable[..., None], tmp_path, how: str
) -> None:
    key = Key(tmp_path / "locked" if how != "default" else user.ssh / "id_ecdsa", "ecdsa", PASSPHRASE)
    if how == "config":
        user.config(f"Host 127.0.0.1\n  IdentityFile {key.path}\n  IdentitiesOnly yes\n")
    user.knows(server(authorized=[key.public]), identity=key.path if how == "named" else None)
    done = user.run_apart("device", "logs", "board")
    assert done.code in (2, 4)
    assert "passphrase" in done.err
    assert f"ssh-add {key.path}" in done.err
    ssh_agent(key, PASSPHRASE)
    done = user.run_apart("device", "logs", "board")
    assert done.got_in, done.err
