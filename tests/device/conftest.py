"""The devices that the contract is held against; each lives for all tests of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "simulators"))
sys.path.append(str(Path(__file__).parents[1] / "device_agent"))
sys.path.append(str(Path(__file__).parents[1] / "ssh"))

from contract_models import KINDS, Bench, Factory

from pipeline.device.client import DeviceClient

SEVERAL = ("simulator", "daemon", "ssh")  # these serve several connections, and can be set up otherwise


@pytest.fixture(scope="session")
def factory(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    """Makes what is sent."""
    return Factory(tmp_path_factory.mktemp("sent"))


@pytest.fixture(scope="session", params=KINDS)
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """One device of each kind."""
    made = Bench(KINDS[request.param](tmp_path_factory.mktemp(request.param)))
    yield made
    made.end()


@pytest.fixture
def device(bench: Bench) -> DeviceClient:
    """The bench's connection, with no update under way."""
    bench.device.rollback()
    return bench.device


@pytest.fixture(params=SEVERAL)
def set_up(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    """Makes devices that are set up in a certain way."""
    made: list[Bench] = []

    def make(**how: Any) -> Bench:
        made.append(Bench(KINDS[request.param](tmp_path, **how)))
        return made[-1]

    yield make
    for each in made:
        each.end()
