"""How tests are shared out among processes: those that share something costly stay together."""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

_AS_STARTED = int(os.environ.get("OMP_NUM_THREADS") or 0) or len(os.sched_getaffinity(0))
TOGETHER = {
    "board",
    "deploy",
    "device",
    "docker",
}  # one board, one deploy, one bench of devices, one set of images


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c() -> Iterator[None]:
    """Let Ctrl-C interrupt, as on a terminal: a shell has its background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """Give torch back the threads that a test took from it: results depend on their number, bit for bit."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(_AS_STARTED)


@pytest.fixture(autouse=True)
def _translations() -> None:
    """Let one process build the ONNX exporter's table of translations once: half of a small model's conversion."""
    registration = sys.modules.get("torch.onnx._internal.exporter._registration")
    if registration is None:
        return
    table = registration.ONNXRegistry
    if isinstance(table.__dict__.get("from_torchlib"), classmethod):
        table.from_torchlib = staticmethod(functools.cache(table.from_torchlib))


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist, which is there where `-n` is used
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process whole files, or whole folders where their tests share something."""
    from xdist.scheduler import LoadScopeScheduling

    class ByPlace(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = PurePosixPath(nodeid.split("::", 1)[0])
            return str(file.parent) if file.parent.name in TOGETHER else str(file)

    return ByPlace(config, log)
