"""Links that stall or are cut, and boards that go away, in the midst of what a host does with a board."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from daemon_process import until
from device_models import LONG, QUICK, write_model
from flaky_proxy import FlakyProxy
from ssh_board import Board, at_measuring, is_there
from ssh_keys import Key
from ssh_user import ROOT, User
from sshd import Sshd

from pipeline.device import registry, upload
from pipeline.device.client import DeviceClient
from pipeline.device.registry import open_device
from pipeline.errors import LinkLostError

HOW: dict[str, Any] = {"runtime": "onnxruntime", "threads": 1}


@pytest.fixture(scope="module")
def board(user_key: Key) -> Iterator[Board]:
    """A board that stays as it is; what links do is the same with every server."""
    with Board(Sshd([user_key.public])) as made:
        yield made


@pytest.fixture
def proxy(board: Board, user: User, monkeypatch: pytest.MonkeyPatch) -> Iterator[FlakyProxy]:
    """A proxy before a board that the registry leads through it; a host waits for less long than it would."""
    monkeypatch.setattr(registry, "PATIENT", replace(registry.PATIENT, first_s=0.05, longest_s=0.4))
    with FlakyProxy(board.server.port) as made:
        user.knows(board.server, port=made.port)
        yield made


@pytest.fixture
def device(proxy: FlakyProxy, told: list[str]) -> Iterator[DeviceClient]:
    with open_device("board", told.append) as made:
        yield made


# --- uploads ------------------------------------------------------------------------------------------------------


def test_an_upload_that_is_cut_goes_on_by_itself(
    board: Board, proxy: FlakyProxy, device: DeviceClient, told: list[str], new_file: Callable[[int], Path]
) -> None:
    path = new_file(8_000_000)
    before, seen = proxy.sent, []
    proxy.cut_after = 5_000_000
    report = device.push([path], lambda *step: seen.append(step))
    assert proxy.cuts == 1
    assert is_there(board, path)
    assert report.sent_bytes <= 8_000_000
    assert seen[-1][0] == seen[-1][1] <= 8_000_000
    assert [sent for sent, _ in seen] == sorted(sent for sent, _ in seen)
    assert (
        proxy.sent - before < 8_000_000 + 3_000_000
    )  # what was on its way when it was cut is sent twice, no more
    assert len(told) == 1
    assert told[0].startswith("device 'board': ")
    assert device.push([path]).skipped_files == 1


def test_an_upload_that_is_cut_again_and_again_goes_on(
    board: Board, proxy: FlakyProxy, device: DeviceClient, new_file: Callable[[int], Path]
) -> None:
    path, ended = new_file(6_000_000), threading.Event()

    def cut_often() -> None:
        while not ended.is_set():
            if proxy.cut_after is None and proxy.cuts < 4:
                proxy.cut_after = random.randint(800_000, 1_800_000)
            time.sleep(0.01)

    thread = threading.Thread(target=cut_often)
    thread.start()
    try:
        device.push([path])
    finally:
        ended.set()
        thread.join()
    assert proxy.cuts >= 3
    assert is_there(board, path)


def test_an_upload_through_a_link_that_stalls_ends_and_the_next_try_goes_on(
    board: Board,
    proxy: FlakyProxy,
    device: DeviceClient,
    new_file: Callable[[int], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upload, "CHUNK_SILENCE_S", 1.0)
    path = new_file(8_000_000)
    sent_before: list[int] = []

    def stall_once(sent: int, _: int) -> None:
        if sent > 2_000_000 and not sent_before:
            sent_before.append(proxy.sent)
            proxy.stall()
            threading.Timer(2.0, flow_anew).start()

    def flow_anew() -> None:
        proxy.cut()
        proxy.flow()

    device.push([path], stall_once)
    assert sent_before
    assert is_there(board, path)


# --- measuring ----------------------------------------------------------------------------------------------------


def test_a_link_that_is_cut_during_a_measurement_frees_the_board(
    board: Board, proxy: FlakyProxy, device: DeviceClient, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "model.onnx")
    with pytest.raises(LinkLostError):
        device.measure(model, **HOW, protocol=LONG, on_event=at_measuring(proxy.cut))
    begun = time.monotonic()
    with device.lease(hold_s=60.0, wait_s=30.0):
        assert device.measure(model, **HOW, protocol=QUICK).runs > 0
    assert time.monotonic() - begun < 15


def test_a_lease_that_ended_with_the_link_is_told_and_the_turn_is_free(
    proxy: FlakyProxy, device: DeviceClient
) -> None:
    with pytest.raises(LinkLostError, match="device 'board'"), device.lease(hold_s=60.0, wait_s=0.0):
        proxy.cut()
    with device.lease(hold_s=1.0, wait_s=10.0):
        assert device.status().protocol == 1


def test_a_stalled_link_is_given_up_by_both_sides(
    board: Board, proxy: FlakyProxy, device: DeviceClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.device.client.QUICK_S", 1.0)
    proxy.stall()
    threading.Timer(2.5, proxy.flow).start()
    assert device.status().update is not None


# --- asking -------------------------------------------------------------------------------------------------------


def test_a_status_after_a_cut_is_asked_again_by_itself(
    proxy: FlakyProxy, device: DeviceClient, told: list[str]
) -> None:
    for _ in range(3):
        proxy.cut()
        assert device.status().protocol == 1
    assert proxy.cuts == 3
    assert proxy.connections == 4


@pytest.mark.parametrize("stalls", ["at once", "later"])
def test_an_interrupt_ends_a_command_that_waits(proxy: FlakyProxy, user: User, stalls: str) -> None:
    """Ctrl-C, while it logs in or while the agent's answer does not come."""
    if stalls == "at once":
        proxy.stall()
    else:
        assert user.run("device", "status", "board").code == 0
        proxy.stall_after = proxy.sent - 150
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "device", "status", "board"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: proxy.connections and not proxy.flows, "a stalled link")
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err.strip()) == (130, "", "interrupted")


def test_a_slow_link_works(board: Board, proxy: FlakyProxy, device: DeviceClient, new_file) -> None:
    proxy.bytes_per_s = 1_000_000
    path = new_file(1_000_000)
    device.push([path])
    assert is_there(board, path)
