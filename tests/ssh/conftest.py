"""Users, and boards with real SSH servers; a board that no test changes is shared."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "device_agent"))
sys.path.append(str(Path(__file__).parents[1] / "device"))

from ssh_board import Board
from ssh_keys import Key
from ssh_user import User
from sshd import Dropbear, Server, Sshd

SERVERS: dict[str, type[Server]] = {"sshd": Sshd, "dropbear": Dropbear}


@pytest.fixture(scope="session")
def user_key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    """The key that boards know."""
    return Key(tmp_path_factory.mktemp("keys") / "id_ed25519")


@pytest.fixture(scope="session")
def other_key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    """A key that no board knows."""
    return Key(tmp_path_factory.mktemp("keys") / "id_ed25519")


@pytest.fixture
def user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], user_key: Key
) -> User:
    """Somebody who has the key."""
    return User(tmp_path / "user", monkeypatch, capsys, user_key)


@pytest.fixture
def server(user_key: Key) -> Iterator[Callable[..., Server]]:
    """Makes servers that let the user in and have no agent; they end with the test."""
    with ExitStack() as stack:

        def make(kind: type[Server] = Sshd, authorized: Any = None, **how: Any) -> Server:
            return stack.enter_context(kind([user_key.public] if authorized is None else authorized, **how))

        yield make


@pytest.fixture
def new_board(user_key: Key) -> Iterator[Callable[..., Board]]:
    """Makes boards with an agent; they end with the test."""
    with ExitStack() as stack:

        def make(*options: str, kind: type[Server] = Sshd, **how: Any) -> Board:
            return stack.enter_context(Board(kind([user_key.public], **how), *options))

        yield make


@pytest.fixture(scope="session", params=sorted(SERVERS))
def board(request: pytest.FixtureRequest, user_key: Key) -> Iterator[Board]:
    """A board of each kind of server, with an agent; it stays as it is."""
    with Board(SERVERS[request.param]([user_key.public])) as made:
        yield made


@pytest.fixture
def told() -> list[str]:
    """What a user was told while it happened."""
    return []


@pytest.fixture
def new_file(tmp_path: Path) -> Callable[[int], Path]:
    """Makes files that no board has."""

    def make(size: int) -> Path:
        path = tmp_path / os.urandom(8).hex()
        path.write_bytes(os.urandom(size))
        return path

    return make


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have a test fail, too, when only a thread of its own died: users would see the traceback."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning"))
