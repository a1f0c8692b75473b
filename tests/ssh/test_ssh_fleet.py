"""Commands for several devices on several boards with real SSH servers, some of which are not as they should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device_models import write_model
from ssh_board import Board
from ssh_processes import free_port
from ssh_user import Ran, User
from sshd import Dropbear, Server, Sshd


def rows(done: Ran) -> dict[str, dict[str, Any]]:
    """What a command says of each device in its JSON."""
    return {row["device"]: row for row in json.loads(done.out)["devices"]}


def test_boards_that_fail_do_not_keep_the_others_from_being_shown(
    new_board: Callable[..., Board], server: Callable[..., Server], user: User
) -> None:
    user.knows(new_board().server, "board-1")
    user.knows(new_board(kind=Dropbear).server, "board-2")
    changed, empty, gone = server(), server(), server()
    for name, one in (("board-3", changed), ("board-4", empty), ("board-5", gone)):
        user.knows(one, name)
    changed.new_host_key()
    changed.restart()
    gone.stop()
    user.knows(gone, "board-5", port=free_port())
    done = user.run("status", "--device", "board-*", "--json", "-")
    assert done.code == 4
    found = rows(done)
    assert [row["ok"] for row in found.values()] == [True, True, False, False, False]
    assert "another host key" in found["board-3"]["error"]["message"]
    assert "device provision board-4" in found["board-4"]["error"]["hint"]
    assert "nobody listens" in found["board-5"]["error"]["message"]
    shown = user.run("status", "--device", "board-*")
    assert shown.code == 4
    assert shown.out.count("unreachable") == 3


def updates(user: User, devices: str = "board*") -> list[dict[str, Any]]:
    """Where the updates of the boards stand."""
    return [
        row["result"]["update"]
        for row in rows(user.run("status", "--device", devices, "--json", "-")).values()
    ]


def test_models_go_to_two_boards_are_activated_and_taken_back(
    new_board: Callable[..., Board], user: User, tmp_path: Path
) -> None:
    for number, kind in enumerate((Sshd, Dropbear)):
        user.knows(new_board(kind=kind).server, f"board-{number}")
    to = ["--device", "board-*"]
    active: list[str] = []
    for number in range(2):
        model = write_model(tmp_path / f"model{number}.onnx", seed=number)
        pushed = user.run("push", str(model), *to, "--threads", "1")
        assert pushed.code == 0, pushed.err
        activated = user.run("activate", *to)
        assert activated.code == 0, activated.err
        first, second = updates(user)
        assert first["current"] == second["current"] is not None
        active.append(first["current"])
    assert active[0] != active[1]
    assert user.run("rollback", *to, "--from", active[1][:12]).code == 0
    assert [update["current"] for update in updates(user)] == [active[0]] * 2


def test_a_board_that_is_cut_off_keeps_what_it_had(
    new_board: Callable[..., Board], user: User, tmp_path: Path
) -> None:
    one = new_board()
    user.knows(one.server)
    model = write_model(tmp_path / "product.onnx")
    assert user.run("push", str(model), "--device", "board", "--threads", "1", "--activate").code == 0
    before = updates(user)
    one.server.stop()
    other = write_model(tmp_path / "other.onnx", seed=1)
    done = user.run("push", str(other), "--device", "board", "--threads", "1", "--activate")
    assert done.code == 4
    assert "nobody listens" in done.out + done.err
    one.server.start()
    assert updates(user) == before
    assert user.run("push", str(other), "--device", "board", "--threads", "1", "--activate").code == 0
