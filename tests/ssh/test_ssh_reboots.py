"""Boards that go away and come back, or run out of room, in the midst of what a host does with them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from device_models import LONG, QUICK, write_model
from ssh_board import Board, at_measuring, is_there, small_disk
from ssh_user import User
from sshd import Dropbear, Server, Sshd

from pipeline.device.registry import open_device
from pipeline.errors import AgentError, LinkLostError, TransportError

HOW: dict[str, Any] = {"runtime": "onnxruntime", "threads": 1}


def test_a_board_that_reboots_during_an_upload_gets_the_rest(
    new_board: Callable[..., Board], user: User, new_file: Callable[[int], Path], told: list[str]
) -> None:
    one, path, rebooted = new_board(), new_file(8_000_000), []
    user.knows(one.server)

    def reboot_once(sent: int, _: int) -> None:
        if sent > 4_000_000 and not rebooted:
            rebooted.append(sent)
            one.reboot()

    with open_device("board", told.append) as device:
        report = device.push([path], reboot_once)
    assert rebooted
    assert is_there(one, path)
    assert told
    assert report.sent_bytes <= 8_000_000 + 2_500_000


def test_a_board_whose_agent_starts_later_than_its_ssh_server_gets_the_rest(
    new_board: Callable[..., Board], user: User, new_file: Callable[[int], Path]
) -> None:
    one, path, rebooted = new_board(), new_file(6_000_000), []
    user.knows(one.server)

    def reboot_once(sent: int, _: int) -> None:
        if sent > 3_000_000 and not rebooted:
            one.cut_power()
            one.server.start()
            rebooted.append(threading.Timer(1.5, one.daemon.start))
            rebooted[0].start()

    try:
        with open_device("board") as device:
            device.push([path], reboot_once)
    finally:
        for timer in rebooted:
            timer.join()
    assert rebooted
    assert is_there(one, path)


def test_a_board_that_does_not_come_back_is_given_up_within_a_minute_and_the_next_try_goes_on(
    new_board: Callable[..., Board],
    user: User,
    new_file: Callable[[int], Path],
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, path = new_board(), new_file(8_000_000)
    user.knows(one.server)
    waited: list[float] = []
    real_sleep = time.sleep

    def cut_once(sent: int, _: int) -> None:
        if sent > 4_000_000 and one.server.process is not None:
            one.cut_power()
            monkeypatch.setattr("time.sleep", waited.append)

    with pytest.raises(LinkLostError, match="nobody listens"), open_device("board", told.append) as device:
        device.push([path], cut_once)
    monkeypatch.setattr("time.sleep", real_sleep)
    assert 10 < sum(each for each in waited if each >= 0.2) < 60
    assert len(told) == len([each for each in waited if each >= 0.2])
    one.power_up()
    with open_device("board") as device:
        assert device.push([path]).sent_bytes < 6_000_000
    assert is_there(one, path)


@pytest.mark.parametrize("kind", [Sshd, Dropbear])
def test_a_full_disk_is_the_agents_error_and_room_helps(
    user: User, new_file: Callable[[int], Path], tmp_path: Path, kind: type[Server]
) -> None:
    with small_disk(tmp_path / "disk", "16m") as folder:
        one = Board(kind([user.key.public]))
        one.daemon.command[one.daemon.command.index("--state") + 1] = str(folder)
        one.daemon.state = folder
        with one:
            user.knows(one.server)
            filler = folder / "filler"
            filler.write_bytes(bytes(7_000_000))
            path = new_file(2_000_000)
            with open_device("board") as device:
                with pytest.raises(AgentError, match="free on the board") as caught:
                    device.push([path])
                assert caught.value.code == "disk_full"
                assert device.status().disk_free_bytes < 10_000_000
                filler.unlink()
                device.push([path])
            assert is_there(one, path)


def test_a_board_that_reboots_during_a_measurement_is_an_error_and_the_next_one_is_made(
    new_board: Callable[..., Board], user: User, tmp_path: Path, told: list[str]
) -> None:
    one = new_board()
    user.knows(one.server)
    model = write_model(tmp_path / "model.onnx")
    begun = threading.Event()

    def reboot() -> None:
        begun.wait(30)
        one.reboot()

    thread = threading.Thread(target=reboot)
    thread.start()
    with open_device("board", told.append) as device:
        with pytest.raises(LinkLostError, match=r"device 'board'.*during 'measure'"):
            device.measure(model, **HOW, protocol=LONG, on_event=at_measuring(begun.set))
        thread.join()
        assert device.measure(model, **HOW, protocol=QUICK).runs > 0
        assert device.status().lease.holder is None


def test_an_agent_that_was_started_anew_is_found_again(
    new_board: Callable[..., Board], user: User, told: list[str]
) -> None:
    one = new_board()
    user.knows(one.server)
    with open_device("board", told.append) as device:
        before = device.status().uptime_s
        one.daemon.stop()
        one.daemon.start()
        assert device.status().uptime_s < before + 60
        assert device.push([Path(__file__)]).sent_bytes > 0


def test_another_board_in_its_place_gets_nothing(
    new_board: Callable[..., Board], user: User, new_file: Callable[[int], Path]
) -> None:
    """Who takes a board's address while it reboots is refused like anybody else with another host key."""
    one, path = new_board(), new_file(4_000_000)
    user.knows(one.server)

    def replace_it(sent: int, _: int) -> None:
        if sent > 1_000_000 and one.server._keys == 1:
            one.server.new_host_key()
            one.server.restart()

    with pytest.raises(TransportError, match="another host key"), open_device("board") as device:
        device.push([path], replace_it)
    assert not is_there(one, path)
