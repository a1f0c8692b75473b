"""`device-agent serve`: the daemon on a unix socket.

Nothing listens on the network. Whoever may open the socket (mode 0660, a group of the system) may read; the
kernel says who it is, and the roles say what more that user may do.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import stat
import threading
from pathlib import Path

from device_agent import __version__
from device_agent.errors import RequestError
from device_agent.log import log
from device_agent.serve import client, systemd
from device_agent.serve.agent import Agent
from device_agent.serve.bridge import connect
from device_agent.serve.peers import OPERATOR, Peer, Roles, group_id
from device_agent.serve.request import Session
from device_agent.serve.server import Server
from device_agent.serve.stdio import locked
from device_agent.serve.streams import SocketStream
from device_agent.serve.trees import EXIT_RESTART, runs_from, served
from device_agent.settings import Listening, Settings

MOST_CONNECTIONS = 32
MOST_OF_ONE_USER = 16
KEPT_FOR_OPERATORS = 8
_SECONDS_TO_END = 10.0


def serve(settings: Settings, listening: Listening) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status (`EXIT_RESTART` for a new agent to be started).

    Raises:
        RequestError: the state folder is locked, the socket is in use, a group is unknown.
    """
    roles = Roles(listening.operators, listening.applications)
    with locked(settings.state), _Signals() as signals, _listen(listening) as server:
        restart = signals.ask_for_restart if settings.updates_itself else None
        daemon = _Daemon(Agent(settings, restart), roles, server)
        threading.Thread(target=daemon.settle, args=(listening.path,), name="settle", daemon=True).start()
        log("info", "serving", version=__version__, socket=str(listening.path), state=str(settings.state))
        systemd.notify("READY=1")
        daemon.run(signals)
        systemd.notify("STOPPING=1")
        daemon.end()
        return EXIT_RESTART if signals.restart else 0


class _Signals:
    """Wakes the main loop on SIGTERM and SIGINT, and when a new agent is to be started."""

    def __enter__(self) -> _Signals:
        self.restart = False
        self.wakeup, self._ring = os.pipe()
        os.set_blocking(self._ring, False)
        signal.set_wakeup_fd(self._ring, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self.wakeup)
        os.close(self._ring)

    def ask_for_restart(self) -> None:
        """End the main loop shortly; the answer to the request that asked is sent first."""
        self.restart = True
        timer = threading.Timer(0.5, os.write, (self._ring, b"r"))
        timer.daemon = True
        timer.start()


class _Daemon:
    """The connections of one agent."""

    def __init__(self, agent: Agent, roles: Roles, server: socket.socket) -> None:
        self._agent = agent
        self._roles = roles
        self._server = server
        self._turn = threading.Lock()
        self._connections: dict[threading.Thread, tuple[Peer, SocketStream]] = {}

    def run(self, signals: _Signals) -> None:
        """Accept connections until a signal comes; wakes up for the watchdog only, if there is one."""
        poll = select.poll()
        poll.register(self._server, select.POLLIN)
        poll.register(signals.wakeup, select.POLLIN)
        while True:
            ready = dict(poll.poll(systemd.watchdog_ms()))
            systemd.notify("WATCHDOG=1")
            if signals.wakeup in ready:
                return
            if ready:
                self._accept()

    def settle(self, path: Path) -> None:
        """Do what need not be done before the first request: look at the board, read the active model again.

        An agent that was just updated commits itself here, once it answers on its own socket.
        """
        try:
            with client.Client(connect(path)) as self_client:
                self_client.ask("status")
            served(self._agent.settings.state)
            update = self._agent.updating.agent.status()
            if update.state == "activated" and update.current is not None and self._is(update.current):
                self._agent.updating.agent.commit(update.current)
                log("info", "this agent works", bundle=update.current)
            self._agent.updating.audit()
        except (RequestError, OSError) as error:
            log("error", "settle", why=str(error))

    def _is(self, bundle: str) -> bool:
        """Say whether this is the agent of that bundle; a newer one may have been installed meanwhile."""
        return runs_from(self._agent.updating.agent.folder_of(bundle))

    def end(self) -> None:
        """Close every connection and wait for what they started to end."""
        with self._turn:
            open_ones = dict(self._connections)
        for _, stream in open_ones.values():
            stream.close()
        for thread in open_ones:
            thread.join(timeout=_SECONDS_TO_END)

    def _accept(self) -> None:
        try:
            connection, _ = self._server.accept()
        except OSError as error:  # the peer is gone already, or no descriptor is left
            log("warning", "accept", why=str(error))
            return
        peer = self._roles.identify(connection)
        with self._turn:
            same = sum(other.uid == peer.uid for other, _ in self._connections.values())
            places = MOST_CONNECTIONS - (0 if OPERATOR in peer.roles else KEPT_FOR_OPERATORS)
            if len(self._connections) >= places or same >= MOST_OF_ONE_USER:
                log("warning", "too many connections", peer=str(peer))
                connection.close()
                return
            stream = SocketStream(connection)
            thread = threading.Thread(target=self._serve, args=(connection, stream, peer), daemon=True)
            try:
                thread.start()
            except RuntimeError as error:  # the system has no thread left; others may give theirs back
                log("warning", "accept", why=str(error))
                connection.close()
                return
            self._connections[thread] = (peer, stream)

    def _serve(self, connection: socket.socket, stream: SocketStream, peer: Peer) -> None:
        try:
            with connection:
                Server(self._agent, stream, Session(peer)).serve()
        finally:
            with self._turn:
                self._connections.pop(threading.current_thread(), None)


@contextlib.contextmanager
def _listen(listening: Listening):  # type: ignore[no-untyped-def]
    """Bind the socket; one that a dead daemon left is replaced, a living one's is not."""
    path = listening.path
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        before = os.umask(0o177)
        try:
            server.bind(str(path))
        except OSError as error:
            raise RequestError(
                "bad_request", f"cannot listen at {path}: {error}", "choose a shorter path with --socket"
            ) from error
        finally:
            os.umask(before)
        if listening.group is not None:
            os.chown(path, -1, group_id(listening.group))
        path.chmod(0o660)
        server.listen(16)
        try:
            yield server
        finally:
            with contextlib.suppress(OSError):
                path.unlink()


def _remove_stale(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise RequestError("bad_request", f"{path} is there and is no socket", "choose another --socket")
    except FileNotFoundError:
        return
    try:
        connect(path).close()
    except RequestError:
        path.unlink()
        return
    raise RequestError("locked", f"another agent listens at {path}", "systemctl status device-agent")
