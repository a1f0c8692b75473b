"""One emulated board for all tests: fresh, then enrolled, then provisioned; the long tests want `-m board`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from board_host import EMU, Done, Host
from board_models import digits, heavy
from emulated_board import Board, why_not

HERE = Path(__file__).parent
QUICK = "board_quick"
_boards: list[Board] = []


def pytest_configure(config: pytest.Config) -> None:
    """Name the marks of this folder."""
    config.addinivalue_line("markers", "board: needs the emulated board; `-m board` runs the long ones, too")
    config.addinivalue_line("markers", f"{QUICK}: those that run with all other tests")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what cannot run here, and what takes long unless boards were asked for by `-m board`."""
    here = [item for item in items if HERE in item.path.parents]
    missing = why_not()
    asked = "board" in config.option.markexpr
    for item in here:
        item.add_marker(pytest.mark.board)
        item.add_marker(pytest.mark.slow)
        item.add_marker(pytest.mark.timeout(1800))
        if missing:
            item.add_marker(pytest.mark.skip(reason=missing))
        elif not asked and not item.get_closest_marker(QUICK):
            item.add_marker(pytest.mark.skip(reason="takes minutes on the emulated board: make test-board"))


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Let no board take processor and memory from the tests of other folders, which come next."""
    if nextitem is None or HERE not in nextitem.path.parents:
        for each in _boards:
            each.power_cut()


@pytest.fixture(scope="session")
def one_board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    """A board that was fresh when the first test began."""
    with Board(tmp_path_factory.mktemp("board")) as running:
        _boards.append(running)
        yield running


@pytest.fixture
def board(one_board: Board) -> Board:
    """The board, on, also after a test that failed while it had no power."""
    if not one_board.is_on:
        one_board.boot()
    return one_board


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Host:
    """The computer of the person who uses the board."""
    return Host(tmp_path_factory.mktemp("host"))


@pytest.fixture(scope="session")
def enrolled(one_board: Board, host: Host) -> Done:
    """What enrolling the board as "emu" said."""
    return host.enroll(EMU, one_board)


@pytest.fixture(scope="session")
def provisioned(enrolled: Done, host: Host) -> Done:
    """What provisioning it, bare as it was, said."""
    return host.pipeline("device", "provision", EMU, "--yes", timeout_s=1200)


@pytest.fixture
def emu(provisioned: Done, board: Board) -> str:
    """The name of the board, which has an agent now and is on."""
    return EMU


@pytest.fixture(scope="session")
def onnx_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped network for digits, with weights of chance."""
    return digits(tmp_path_factory.mktemp("models"), "onnxruntime")


@pytest.fixture(scope="session")
def tflite_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, as a TFLite file."""
    return digits(tmp_path_factory.mktemp("models"), "tflite")


@pytest.fixture
def heavy_model(tmp_path: Path) -> Path:
    """A model of 19 MB, which takes some seconds to send; no board has it yet."""
    return heavy(tmp_path)
