"""What a process with access to the daemon's socket may try: at the wire, by its number, and beyond its role."""

import contextlib
import grp
import os
import resource
import socket
import struct
import tempfile
import threading
import time
from pathlib import Path

import pytest
from attack_bundles import guarded
from attack_peers import HELLO, STRANGER, Raw, children_of, status_of, stranger
from daemon_process import Daemon, activate, send_bundle, until

from device_agent import wire
from device_agent.errors import RequestError
from device_agent.serve import agent, daemon, server
from device_agent.serve.peers import owner
from device_agent.serve.request import Session
from device_agent.serve.streams import SocketStream
from device_agent.settings import Settings

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
READERS, APPLICATIONS, OPERATORS = "games", "mail", "news"
CLOSED = (AssertionError, OSError, RequestError)


@pytest.fixture(scope="module")
def daemons():
    """Two daemons: one for its own user, and one that strangers can reach, which they cannot in pytest's folders."""
    with tempfile.TemporaryDirectory() as own, tempfile.TemporaryDirectory() as reachable:
        Path(reachable).chmod(0o711)
        groups = ("--group", READERS, "--operators", OPERATORS, "--applications", APPLICATIONS)
        both = (
            Daemon(Path(own)).start(),
            Daemon(Path(reachable), *(groups if os.geteuid() == 0 else ())).start(),
        )
        for each in both:
            each.ask("status")
        yield both
        for each in both:
            each.stop()


def at_rest(made):
    """Wait until the connections of the test before are gone; a timer or two may be left."""
    until(lambda: status_of(made, "Threads") <= 3, "its connections are gone")
    return made


@pytest.fixture
def board(daemons):
    return at_rest(daemons[0])


@pytest.fixture
def open_board(daemons):
    return at_rest(daemons[1])


def reader(board, *more, user=STRANGER):
    """Connect as a user who may read, and is in more groups."""
    with stranger(*(grp.getgrnam(name).gr_gid for name in (READERS, *more)), user=user):
        return Raw(board)


def serves(board):
    """Say whether a new client is served now."""
    try:
        return board.ask("status")["protocol"] == wire.PROTOCOL
    except RequestError:
        return False


def as_many_as_go(connect):
    """Connect until the agent takes no more."""
    opened = []
    with contextlib.suppress(*CLOSED):
        while len(opened) <= daemon.MOST_CONNECTIONS:
            opened.append(connect())
    return opened


def close(connections):
    for each in connections:
        each.__exit__()


@contextlib.contextmanager
def serving(folder, **patience):
    """A server in this process, with less patience than the daemon's; yields it, its thread, and our end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = server.Server(
            agent.Agent(Settings(folder)), SocketStream(theirs, **patience), Session(owner())
        )
        thread = threading.Thread(target=made.serve)
        thread.start()
        ours.settimeout(30)
        ours.sendall(wire.encode_frame(HELLO))
        yield made, thread, ours
        with contextlib.suppress(OSError):
            ours.shutdown(socket.SHUT_RDWR)
        thread.join(timeout=30)


# --- at the wire ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix",
    [(2**32 - 1, 0), (0, 2**32 - 1), (2, wire.MAX_PAYLOAD + 1), (wire.MAX_HEADER, 0)],
    ids=str,
)
@pytest.mark.parametrize("hello", [False, True])
def test_a_frame_over_the_limits_ends_its_connection_before_it_is_read(board, prefix, hello):
    with Raw(board, hello=hello) as raw:
        raw.socket.sendall(struct.pack(">II", *prefix))
        assert raw.read()["error"]["code"] == "bad_frame"
        raw.read_to_the_end()
    assert serves(board)


@pytest.mark.parametrize(
    "header",
    [
        b"[" * 1_000_000,
        b'{"id": 1, "method": "status", "params": ' + b'{"a":' * 100_000,
        b'{"id": ' + b"9" * 5000 + b', "method": "status"}',
        b"\xff\xfe",
        b"",
        b"[]",
        b'{"id": true, "method": "status"}',
        b'{"id": 1.0, "method": "status"}',
        b'{"id": 1, "method": 1}',
        b'{"id": 1}',
        b'{"cancel": "1"}',
        b'{"hello": {"protocols": [1]}}',
    ],
    ids=lambda header: header[:30].decode("latin-1"),
)
def test_a_header_that_is_no_request_ends_its_connection(board, header):
    with Raw(board) as raw:
        raw.send_raw(header)
        assert raw.read()["error"]["code"] == "bad_frame"
        raw.read_to_the_end()
    assert serves(board)


DEPTHS = [100, 500, 900, 960, 970, 980, 990, 1000]
NAMES = (
    b"files keep sha256 protocol signatures bundle runtime why wait_s manifest_sha256 purpose size".split()
)


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("method", sorted({*agent.METHODS} - {"watch"}))
def test_parameters_of_any_depth_are_answered(board, method, depth):
    nested = b"[" * depth + b"]" * depth
    params = b",".join(b'"%s": %s' % (name, nested) for name in NAMES)
    with Raw(board) as raw:
        raw.send_raw(b'{"id": 1, "method": "%s", "params": {%s}}' % (method.encode(), params))
        answer = raw.read()
    assert answer.get("error", {}).get("code") not in ("internal", "worker_died")


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_hello_of_any_depth_is_answered(board, depth):
    with Raw(board, hello=False) as raw:
        raw.send_raw(b'{"hello": {"protocols": ' + b"[" * depth + b"]" * depth + b"}}")
        assert raw.read()["error"]["code"] in ("protocol_mismatch", "bad_frame")


def test_a_sender_that_stalls_in_a_frame_is_let_go(tmp_path):
    with serving(tmp_path, stall_s=0.1) as (_, thread, ours):
        ours.sendall(b"\0\0\0")
        thread.join(timeout=20)
        assert not thread.is_alive()
        stream = ours.makefile("rb")
        assert "hello" in wire.read_frame(stream).header
        assert wire.read_frame(stream).header["error"]["code"] == "bad_frame"


def test_a_sender_of_a_byte_now_and_then_is_let_go(tmp_path):
    with serving(tmp_path, stall_s=20, frame_s=0.3) as (_, thread, ours):
        ours.sendall(struct.pack(">II", 1000, 0))
        for _ in range(900):
            thread.join(timeout=0.02)
            if not thread.is_alive():
                break
            with contextlib.suppress(OSError):
                ours.sendall(b" ")
        assert not thread.is_alive()


def test_others_are_served_while_some_send_a_byte_now_and_then(board):
    slow = [Raw(board, hello=False) for _ in range(8)]
    for _ in range(3):
        for raw in slow:
            raw.socket.sendall(b"\0")
        assert serves(board)
    close(slow)


# --- by their number ------------------------------------------------------------------------------------------


def test_one_user_gets_no_more_than_a_share_of_the_connections(board):
    opened = as_many_as_go(lambda: Raw(board))
    assert 0 < len(opened) <= daemon.MOST_OF_ONE_USER
    assert opened[0].code("status") == ""
    close(opened)
    assert serves(at_rest(board))


@ROOT_ONLY
def test_readers_leave_connections_to_operators(open_board):
    opened = []
    for user in (STRANGER, STRANGER - 1, STRANGER - 2):
        opened += as_many_as_go(lambda user=user: reader(open_board, user=user))
    assert serves(open_board)
    close(opened)


def test_requests_beyond_the_most_are_refused_and_the_others_go_on(board):
    with Raw(board) as raw:
        numbers = [raw.begin("watch") for _ in range(100)]
        assert serves(board)
        for number in numbers:
            raw.send({"cancel": number})
        codes = [raw.read()["error"]["code"] for _ in numbers]
        assert set(codes) == {"busy", "cancelled"}
        assert raw.code("status") == ""


def test_a_peer_that_reads_no_answers_takes_few_threads(tmp_path):
    board = Daemon(tmp_path).start()
    board.ask("status")
    before = status_of(board, "Threads")
    with Raw(board) as raw:
        raw.socket.settimeout(1.0)
        with contextlib.suppress(TimeoutError):
            for _ in range(3000):
                raw.begin("no.such.method")
        assert status_of(board, "Threads") - before < 100
        assert serves(board)
    board.stop()


def test_a_peer_that_leaves_behind_its_requests_leaves_no_thread(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "_END_S", 0.05)
    with serving(tmp_path, stall_s=1.5) as (made, thread, ours):
        for number in range(1000):
            ours.sendall(wire.encode_frame({"id": number, "method": "files.none"}))
            time.sleep(0.003)  # each is read before the next one is sent, so that none is left in the socket
            if made._file_requests.full():
                break
        ours.shutdown(socket.SHUT_WR)
        thread.join(timeout=30)
    until(lambda: "files" not in [each.name for each in threading.enumerate()], "it ends", 10)


def test_signatures_are_looked_at_by_few_processes_at_a_time(tmp_path):
    with guarded(tmp_path) as board, Raw(board.daemon) as raw:
        bundle = send_bundle(board.daemon)
        for _ in range(20):
            raw.begin("bundle.stage", {"manifest_sha256": bundle, "signatures": board.sign(b"")})
        answers = []
        reading = threading.Thread(target=lambda: answers.extend(raw.read() for _ in range(20)))
        reading.start()
        most = 0
        while reading.is_alive():
            most = max(most, children_of(board.daemon))
            reading.join(timeout=0.01)
        assert {answer["error"]["code"] for answer in answers} == {"untrusted"}
        assert 0 < most <= 4


def test_a_daemon_that_can_start_no_more_threads_serves_again_later(tmp_path):
    board = Daemon(tmp_path).start()
    board.ask("status")
    room = status_of(board, "VmSize") * 1024 + 100 * 1024 * 1024
    before = resource.prlimit(board.process.pid, resource.RLIMIT_AS)
    resource.prlimit(board.process.pid, resource.RLIMIT_AS, (room, before[1]))
    opened = []
    for _ in range(40):
        with contextlib.suppress(*CLOSED):
            opened.append(Raw(board))
            for _ in range(10):
                opened[-1].begin("watch")
    assert "can't start new thread" in board.log.read_text()
    assert board.process.poll() is None
    resource.prlimit(board.process.pid, resource.RLIMIT_AS, before)
    close(opened)
    until(lambda: serves(board), "it serves again")
    assert "Traceback" not in board.log.read_text()
    assert board.stop() == 0


@ROOT_ONLY
def test_readers_cannot_fill_the_memory(open_board):
    before = status_of(open_board, "VmRSS")
    opened = []
    bulk = b"[%s0]" % (b"[]," * ((server._MOST_HEADER_OF_READERS - 100) // 3))
    for _ in range(daemon.MOST_OF_ONE_USER):
        with contextlib.suppress(*CLOSED):
            opened.append(reader(open_board))
            for number in range(60):
                opened[-1].send_raw(b'{"id": %d, "method": "watch", "params": {"x": %s}}' % (number, bulk))
    assert serves(open_board)
    assert status_of(open_board, "VmRSS") - before < 50_000
    close(opened)


# --- beyond their role ----------------------------------------------------------------------------------------

OPERATING = {name for name, method in agent.METHODS.items() if method.role == "operator"}
APPLYING = {name for name, method in agent.METHODS.items() if method.role == "application"}


def refused_to(raw):
    """Ask for everything that ends; return what was refused for want of the role."""
    return {method for method in agent.METHODS if method != "watch" and raw.code(method) == "not_allowed"}


@ROOT_ONLY
def test_a_reader_reads_and_does_nothing_else(open_board):
    with reader(open_board) as raw:
        assert refused_to(raw) == OPERATING | APPLYING


@ROOT_ONLY
def test_an_application_confirms_and_marks_bad_and_does_nothing_else(open_board):
    activate(open_board, send_bundle(open_board), confirm_within_s=600)
    with reader(open_board, APPLICATIONS) as raw:
        assert refused_to(raw) == OPERATING
    assert open_board.ask("status")["update"]["state"] == "committed"


@ROOT_ONLY
def test_an_operator_may_do_everything(open_board):
    with reader(open_board, OPERATORS) as raw:
        assert refused_to(raw) == set()


@ROOT_ONLY
def test_who_is_in_no_group_of_the_agents_is_not_let_in(open_board):
    with stranger(), pytest.raises(RequestError) as caught:
        Raw(open_board)
    assert caught.value.code == "not_allowed"


@ROOT_ONLY
@pytest.mark.parametrize("role", [(), (APPLICATIONS,)], ids=["reader", "application"])
def test_who_is_no_operator_may_send_no_bulk(open_board, role):
    with reader(open_board, *role) as raw:
        raw.send({"id": 1, "method": "files.put", "params": {}}, b"x")
        assert raw.read()["error"]["code"] == "bad_frame"
    with reader(open_board, *role) as raw:
        raw.send_raw(b" " * 100_000)
        assert raw.read()["error"]["code"] == "bad_frame"


@ROOT_ONLY
def test_an_application_marks_only_bundles_that_the_board_has(open_board):
    with reader(open_board, APPLICATIONS) as raw:
        unknown = {"bundle": "f" * 64, "why": "never seen"}
        assert raw.code("bundle.mark_bad", unknown) == "not_staged"
        for number in range(100):
            raw.ask("bundle.mark_bad", {"bundle": f"{number:064x}", "why": "x" * 300})
    assert len(open_board.ask("status")["update"]["bad"]) < 10
