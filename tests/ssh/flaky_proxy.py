"""A TCP proxy for a link that is bad: it cuts, stalls or throttles what passes, as the test says."""

from __future__ import annotations

import contextlib
import socket
import threading
import time

_PIECE = 32 * 1024


class FlakyProxy:
    """Passes connections on to a port of the loopback; a context manager.

    After `cut_after` more bytes towards the server the connections are cut, once; after `stall_after` more nothing
    passes any longer, and the connections stay; `bytes_per_s` throttles each direction of each connection.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.cut_after: int | None = None
        self.stall_after: int | None = None
        self.bytes_per_s: float | None = None
        self.connections = 0
        self.cuts = 0
        self.sent = 0  # bytes towards the server, of all connections
        self._flowing = threading.Event()
        self._flowing.set()
        self._turn = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> FlakyProxy:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.flow()
        self.cut()

    def stall(self) -> None:
        """Pass nothing from now on; connections stay, and new ones are taken."""
        self._flowing.clear()

    def flow(self) -> None:
        """Pass what is there again."""
        self._flowing.set()

    @property
    def flows(self) -> bool:
        """Whether anything passes."""
        return self._flowing.is_set()

    def cut(self) -> None:
        """Cut all connections, in both directions."""
        with self._turn:
            pairs, self._pairs = self._pairs, []
            self.cuts += bool(pairs)
        for pair in pairs:
            for each in pair:
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self.connections += 1
                threading.Thread(target=self._pass_on, args=(near,), daemon=True).start()

    def _pass_on(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(("127.0.0.1", self.target), timeout=10)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._turn:
            self._pairs.append((near, far))
        with near, far:
            back = threading.Thread(target=self._pump, args=(far, near, False), daemon=True)
            back.start()
            self._pump(near, far, True)
            back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, towards_server: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_PIECE):
                if towards_server and self._is_to_stall(len(data)):
                    self.stall()
                self._flowing.wait()
                if towards_server and (allowed := self._allowed(len(data))) is not None:
                    sink.sendall(data[:allowed])
                    self.cut()
                    return
                if self.bytes_per_s:
                    time.sleep(len(data) / self.bytes_per_s)
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _is_to_stall(self, count: int) -> bool:
        with self._turn:
            if self.stall_after is None:
                return False
            self.stall_after -= count
            if self.stall_after > 0:
                return False
            self.stall_after = None
            return True

    def _allowed(self, count: int) -> int | None:
        """Return how many of these bytes still pass if the connection is to be cut now, else `None`."""
        with self._turn:
            if self.cut_after is None:
                self.sent += count
                return None
            if count < self.cut_after:
                self.cut_after -= count
                self.sent += count
                return None
            allowed, self.cut_after = self.cut_after, None
            self.sent += allowed
            return allowed
