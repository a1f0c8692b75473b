"""Commands on a board, over OpenSSH's server and over dropbear."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator

import pytest
from ssh_board import Board
from ssh_user import User
from sshd import Dropbear, Server, Sshd

from pipeline.device.address import SshAddress
from pipeline.device.ssh import SshShell
from pipeline.errors import TransportError


def shell_of(server: Server) -> SshShell:
    return SshShell(SshAddress("127.0.0.1", server.port, "pi", None, server.host_key), "board")


@pytest.fixture
def shell(board: Board, user: User) -> Iterator[SshShell]:
    with shell_of(board.server) as made:
        yield made


def test_a_command_gives_its_status_and_both_outputs(shell: SshShell) -> None:
    done = shell.run("cat; echo to stderr >&2; exit 7", b"what it reads")
    assert (done.status, done.stdout, done.stderr) == (7, b"what it reads", b"to stderr\n")
    assert shell.run("true").status == 0
    assert shell.run("no-such-program").status == 127


def test_all_of_a_long_output_comes_however_the_command_ends(shell: SshShell) -> None:
    for _ in range(5):
        done = shell.run("head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2; exit 3")
        assert (done.status, len(done.stdout), len(done.stderr)) == (3, 3_000_000, 1_000_000)
        assert len(shell.run("head -c 300000 /dev/zero").stdout) == 300_000


def test_a_long_input_arrives_whole_while_as_much_comes_back(shell: SshShell) -> None:
    data = os.urandom(3_000_000)
    assert shell.run("cat", data).stdout == data
    assert hashlib.sha256(data).hexdigest().encode() in shell.run("sha256sum", data).stdout


def test_what_a_command_does_not_read_does_no_harm(shell: SshShell) -> None:
    assert shell.run("exit 5", bytes(3_000_000)).status == 5


def test_a_command_that_does_not_end_is_given_up(shell: SshShell) -> None:
    begun = time.monotonic()
    with pytest.raises(TransportError, match=r"device 'board': .*did not end within 0\.5 s"):
        shell.run("sleep 60", timeout_s=0.5)
    assert time.monotonic() - begun < 5
    assert shell.run("echo next").stdout == b"next\n"


def test_a_command_that_leaves_a_process_behind_ends_all_the_same(shell: SshShell) -> None:
    begun = time.monotonic()
    assert shell.run("sleep 30 & echo started").stdout == b"started\n"
    assert time.monotonic() - begun < 5


def test_a_command_that_is_killed_has_no_status_and_that_is_an_error(shell: SshShell) -> None:
    with pytest.raises(TransportError, match=r"device 'board'.*without an exit status"):
        shell.run("kill -KILL $$")
    assert shell.run("echo next").stdout == b"next\n"


def test_many_commands_go_over_one_connection(shell: SshShell, board: Board) -> None:
    shell.run("true")
    before = board.server.log.read_text().count("onnection from")
    for number in range(20):
        assert shell.run(f"echo {number}").stdout == f"{number}\n".encode()
    assert board.server.log.read_text().count("onnection from") == before


def test_a_broken_connection_is_an_error_once_and_made_anew_the_next_time(
    server: Callable[..., Server], user: User
) -> None:
    one = server()
    with shell_of(one) as shell:
        with pytest.raises(TransportError, match="device 'board'"):
            shell.run("kill -KILL $PPID; sleep 5")  # the server's process of this very connection
        assert shell.run("echo again").stdout == b"again\n"
        one.restart()
        time.sleep(0.1)
        assert shell.run("echo and again").stdout == b"and again\n"


def test_a_server_with_no_session_left_is_an_error(server: Callable[..., Server], user: User) -> None:
    one = server(settings=["MaxSessions 1"])
    with shell_of(one) as shell:
        transport = shell.transport("cat")
        transport.open()
        with pytest.raises(TransportError, match="the board starts no command"):
            shell.run("true")
        transport.close()


@pytest.mark.parametrize("kind", ["ecdsa", "rsa"])
@pytest.mark.parametrize("program", [Sshd, Dropbear])
def test_host_keys_of_other_kinds_are_good_ones(
    server: Callable[..., Server], user: User, program: type[Server], kind: str
) -> None:
    with shell_of(server(program, host_key=kind)) as shell:
        assert shell.run("echo in").stdout == b"in\n"


def test_a_board_without_sftp_is_a_good_one(server: Callable[..., Server], user: User) -> None:
    with shell_of(server(sftp=False)) as shell:
        assert shell.run("echo in").stdout == b"in\n"
