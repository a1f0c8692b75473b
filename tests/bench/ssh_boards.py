"""What the benches of boards over SSH share: a key, boards on loopback, and clients of them."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = ROOT / "tests"
sys.path[:0] = [str(ROOT), *(str(TESTS / name) for name in ("ssh", "device_agent", "device", "simulators"))]

from flaky_proxy import FlakyProxy  # noqa: E402
from ssh_board import Board  # noqa: E402
from ssh_keys import Key  # noqa: E402
from sshd import USER, Sshd  # noqa: E402

from pipeline.device.address import SshAddress  # noqa: E402
from pipeline.device.client import DeviceClient  # noqa: E402
from pipeline.device.registry import AGENT_COMMAND  # noqa: E402
from pipeline.device.retry import PATIENT, Patience  # noqa: E402
from pipeline.device.ssh import SshShell, SshTransport  # noqa: E402

__all__ = [
    "ROOT",
    "USER",
    "Board",
    "FlakyProxy",
    "Key",
    "address_of",
    "board",
    "client_of",
    "new_file",
    "work_folder",
]


@contextmanager
def work_folder() -> Iterator[tuple[Path, Key]]:
    """A folder for the bench, with a key in it."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        yield Path(name), Key(Path(name) / "id_ed25519")


def board(key: Key) -> Board:
    """A board with OpenSSH's server and an agent, to be entered."""
    return Board(Sshd([key.public]))


def address_of(one: Board, key: Key, port: int | None = None) -> SshAddress:
    """Where a board is, or the proxy before it."""
    return SshAddress("127.0.0.1", port or one.server.port, USER, key.path, one.server.host_key)


def client_of(address: SshAddress, patience: Patience = PATIENT) -> DeviceClient:
    """A client as `open_device` makes it."""
    transport = SshTransport(SshShell(address, "bench"), AGENT_COMMAND, "bench", owns=True)
    return DeviceClient(transport, patience)


def new_file(path: Path, size: int) -> Path:
    """Fill a file with bytes that were never sent before."""
    path.write_bytes(os.urandom(size))
    return path
