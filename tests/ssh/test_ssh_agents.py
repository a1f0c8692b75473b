"""A board that one gets into, and an agent there that is missing, of another version, or not what it should be."""

from __future__ import annotations

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fake_agent
import pytest
from daemon_process import PACKAGE
from ssh_board import Board, install_agent, install_agent_for_everybody
from ssh_keys import Key
from ssh_user import Ran, User
from sshd import GUEST, Dropbear, Server, Sshd

from pipeline.device import client, link

FAKE = Path(fake_agent.__file__)


def ask(user: User, *, within_s: float = 20.0) -> Ran:
    """Ask the board for its status; nothing may end in a traceback or hang."""
    begun = time.monotonic()
    done = user.run("device", "status", "board")
    assert time.monotonic() - begun < within_s
    assert done.code in (0, 4), done
    assert (done.code == 0) == (done.err == ""), done
    return done


def behaves(server: Server, behaviour: str) -> None:
    """Have a fake agent on a board."""
    server.program(
        "device-agent",
        f"PYTHONPATH={shlex.quote(str(PACKAGE))} "
        f"exec {shlex.quote(sys.executable)} {shlex.quote(str(FAKE))} {shlex.quote(behaviour)}",
    )


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that waits for less long than it would."""
    for module, name, seconds in ((link, "HELLO_S", 3.0), (client, "QUICK_S", 0.3)):
        assert hasattr(module, name)
        monkeypatch.setattr(module, name, seconds)


# --- no agent -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Sshd, Dropbear])
def test_a_board_without_an_agent(
    server: Callable[..., Server], new_board: Callable[..., Board], user: User, kind: type[Server]
) -> None:
    one = server(kind)
    user.knows(one)
    done = ask(user, within_s=5)
    assert done.code == 4
    assert "device-agent" in done.err
    assert "pipeline device provision board" in done.err
    assert "run the command again" not in done.err
    user.knows(new_board(kind=kind).server)
    assert ask(user).code == 0


def test_a_command_of_the_registry_that_the_board_does_not_have(board: Board, user: User) -> None:
    user.knows(board.server, agent="/opt/elsewhere/device-agent stdio")
    done = ask(user, within_s=5)
    assert done.code == 4
    assert "/opt/elsewhere/device-agent" in done.err


def test_a_board_whose_agent_is_not_running(new_board: Callable[..., Board], user: User) -> None:
    one = new_board()
    user.knows(one.server)
    one.daemon.stop()
    done = ask(user, within_s=5)
    assert done.code == 4
    assert "no agent answers" in done.err
    assert "systemctl status device-agent" in done.err
    one.daemon.start()
    assert ask(user).code == 0


def test_a_user_who_may_not_open_the_agents_socket(new_board: Callable[..., Board], user: User) -> None:
    one = new_board()
    install_agent_for_everybody(one.server, one.daemon.socket)
    user.knows(one.server, user=GUEST)
    done = ask(user, within_s=5)
    assert done.code == 4
    assert "this user may not open" in done.err
    assert "join the group" in done.err


def test_a_board_without_python(server: Callable[..., Server], user: User) -> None:
    one = server()
    install_agent(one, one.folder / "agent.sock", python="python3")
    one.without("python", "pypy")
    one.restart()
    user.knows(one)
    done = ask(user, within_s=5)
    assert done.code == 4
    assert "python3: not found" in done.err or "python3: No such file" in done.err


def test_a_python_that_is_too_old(server: Callable[..., Server], user: User) -> None:
    one = server()
    one.program("python3", 'echo "SyntaxError: future feature annotations is not defined" >&2; exit 1')
    install_agent(one, one.folder / "agent.sock", python="python3")
    user.knows(one)
    done = ask(user, within_s=5)
    assert done.code == 4
    assert "annotations is not defined" in done.err


# --- a forced command ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Sshd, Dropbear])
def test_a_key_that_is_bound_to_the_agent_is_enough_to_use_it(
    new_board: Callable[..., Board], user: User, tmp_path: Path, kind: type[Server]
) -> None:
    one = new_board(kind=kind)
    options = (
        "restrict," if kind is Sshd else "no-port-forwarding,no-agent-forwarding,no-X11-forwarding,no-pty,"
    )
    one.server.authorize([f'{options}command="{one.server.bin}/device-agent stdio" {user.key.public}'])
    enrolled = user.run("device", "enroll", "rpi4", "pi@127.0.0.1", "--port", str(one.server.port), "--yes")
    assert enrolled.code == 0, enrolled.err
    done = user.run("device", "status", "rpi4")
    assert (done.code, done.err) == (0, "")
    logs = user.run("device", "logs", "rpi4")
    assert logs.code == 4
    assert "forced command" in logs.err


# --- what is printed before the agent speaks ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Sshd])
def test_a_shell_that_prints_before_the_agent_speaks_is_named(
    new_board: Callable[..., Board], user: User, kind: type[Server]
) -> None:
    one = new_board(kind=kind)
    user.knows(one.server)
    noisy = one.server.home / ".bashrc"
    noisy.write_text("echo 'Welcome to the lab, pi!'\n")
    done = ask(user, within_s=10)
    assert done.code == 4
    assert "Welcome to the lab" in done.err
    assert ".bashrc" in done.err
    noisy.write_text("echo 'Welcome to the lab, pi!' >&2\n")
    assert ask(user).code == 0


def test_a_banner_and_a_message_of_the_day_do_no_harm(new_board: Callable[..., Board], user: User) -> None:
    one = new_board()
    (one.server.folder / "banner").write_text("Authorized use only!\n" * 50)
    one.server.settings += [f"Banner {one.server.folder / 'banner'}", "PrintMotd yes", "PrintLastLog yes"]
    one.server.restart()
    user.knows(one.server)
    assert ask(user).code == 0


# --- other versions, and agents that are not what they should be --------------------------------------------------


@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize("behaviour", [name for name in fake_agent.BEHAVIOURS if "protocol" in name])
def test_an_agent_of_another_protocol_says_so(
    server: Callable[..., Server], user: User, behaviour: str, forced: bool
) -> None:
    one = server()
    behaves(one, behaviour)
    if forced:
        one.authorize([f'restrict,command="{one.bin}/device-agent stdio" {user.key.public}'])
    user.knows(one)
    done = ask(user, within_s=5)
    assert done.code == 4
    assert f"speaks {behaviour}, the host offers [1]" in done.err
    assert "install the agent that belongs to this version of the pipeline" in done.err
    assert "pipeline device provision board" in done.err


@pytest.fixture(scope="module")
def strange(user_key: Key) -> Iterator[Server]:
    """A board whose agent is another one in each test."""
    with Sshd([user_key.public]) as made:
        yield made


@pytest.mark.parametrize("behaviour", [name for name in fake_agent.BEHAVIOURS if "protocol" not in name])
def test_a_hostile_agent_gets_one_clear_line_and_no_more(
    strange: Server, user: User, impatient: None, behaviour: str
) -> None:
    behaves(strange, behaviour)
    user.knows(strange)
    done = ask(user)
    assert done.code == 4
    assert done.err.startswith("error: ")
    assert len(done.err) < 8_000
    assert not [each for each in done.out + done.err if not (each.isprintable() or each == " ")], done.err


def test_a_hostile_log_does_not_reach_the_terminal_as_it_is(
    server: Callable[..., Server], user: User
) -> None:
    one = server()
    one.program("journalctl", r"printf 'good line\n\033]0;owned\007\033[2J\xff\xfe end\n'")
    user.knows(one)
    done = user.run("device", "logs", "board")
    assert done.code == 0
    assert done.out.startswith("good line")
    assert "\x1b" not in done.out
    assert "\x07" not in done.out


def test_every_behaviour_can_be_played() -> None:
    """A fake agent that fails for a reason of its own would let the tests above pass for nothing."""
    for behaviour in ("protocol 2", "greets with 2", "result is empty"):
        command = [sys.executable, str(FAKE), behaviour]
        hello = b"\x00\x00\x00\x21\x00\x00\x00\x00" + b'{"hello": {"protocols": [1]}}'.ljust(0x21)
        done = subprocess.run(
            command, input=hello, env={"PYTHONPATH": str(PACKAGE)}, capture_output=True, check=True
        )
        assert done.stdout[8:9] == b"{"
        assert done.stderr == b""
