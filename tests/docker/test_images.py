"""The images of the agent and of a board are built, and run as compose.yaml has it: locked down, reached over SSH."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from engine import Builder, Container, Image, missing
from onnx import helper

from pipeline.device.client import DeviceClient
from pipeline.device.registry import open_device
from pipeline.measurement import MeasuringProtocol

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(missing() != "", reason=missing()),
]

STORE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edge-pipeline" / "images"
LOOPBACK = "127.0.0.1"


@pytest.fixture(scope="module")
def builder() -> Builder:
    return Builder(STORE)


@pytest.fixture(scope="module")
def agent_name(builder: Builder) -> str:
    return builder.build("agent.Dockerfile", "localhost/edge-pipeline-agent", BASE=builder.base())


@pytest.fixture(scope="module")
def agent(builder: Builder, agent_name: str) -> Iterator[Image]:
    with builder.unpacked(agent_name) as image:
        yield image


@pytest.fixture(scope="module")
def board(builder: Builder, agent_name: str) -> Iterator[Image]:
    name = builder.build("board.Dockerfile", "localhost/edge-pipeline-board", AGENT=agent_name)
    with builder.unpacked(name) as image:
        yield image


@pytest.fixture
def state(agent: Image, tmp_path: Path) -> Path:
    return _folder(tmp_path / "state", agent)


class TestAgent:
    def test_no_file_gives_rights(self, agent: Image) -> None:
        assert _with_special_bits(agent) == []

    def test_nothing_is_left_of_the_build(self, agent: Image) -> None:
        assert not (agent.root / "usr/bin/pip3").exists()
        assert not any((agent.root / "var/lib/apt/lists").iterdir())

    def test_it_serves_on_stdin_and_stdout(self, agent: Image, state: Path, tmp_path: Path) -> None:
        serving = ["stdio", "--standalone"]
        container = Container(agent, serving, volumes={"/var/lib/device-agent": state})
        with DeviceClient(container) as device:
            assert {each.name for each in device.status().runtimes} == {"onnxruntime", "tflite"}
            model = _model(tmp_path / "model.onnx")
            quick = MeasuringProtocol(min_runs=20, min_duration_s=0.01, max_duration_s=5.0)
            found = device.measure(model, runtime="onnxruntime", threads=1, protocol=quick)
            assert found.runs >= 20

    @pytest.mark.parametrize(
        "module", ["onnxruntime", "ai_edge_litert.interpreter", "cryptography.hazmat.primitives"]
    )
    def test_what_workers_need_can_be_loaded(self, agent: Image, module: str) -> None:
        done = Container(agent, ["-c", f"import {module}"], entrypoint=["python3"]).run()
        assert done.returncode == 0, done.stderr

    def test_the_daemon_is_healthy_and_has_no_rights(self, agent: Image, state: Path) -> None:
        with Container(agent, volumes={"/var/lib/device-agent": state}) as container:
            assert container.healthy()
            rights = container.execute(
                "grep", "-E", "^(Uid|Gid|CapPrm|CapEff|NoNewPrivs):", "/proc/1/status"
            ).stdout
            assert rights.split() == [
                *("Uid:", *["990"] * 4),
                *("Gid:", *["990"] * 4),
                *("CapPrm:", "0" * 16, "CapEff:", "0" * 16, "NoNewPrivs:", "1"),
            ]
            assert container.execute("touch", "/opt/device-agent/x").returncode != 0
            assert container.stop() == 0

    def test_an_agent_that_is_gone_is_not_healthy(self, agent: Image) -> None:
        with Container(agent, ["stdio", "--standalone", "--state", "/tmp/state"]) as container:  # noqa: S108 - in there
            assert not container.healthy(within_s=0)


class Fleet:
    """The volumes of a fleet, and its boards by name, each on a port of this computer's loopback."""

    def __init__(self, folder: Path, image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._image = image
        names = ("host", "board1", "board2", "board3")
        volumes = {f"/keys/{name}": _folder(folder / name, image) for name in names}
        making = Container(
            image, [], volumes=volumes, environment={"SHELL_BOARDS": "board3"}, entrypoint=["make-keys"]
        )
        done = making.run()
        assert done.returncode == 0, done.stderr
        self.identity = folder / "host/.ssh/id_ed25519"
        monkeypatch.setenv("HOME", str(folder / "host"))
        monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "host/.config"))

    def board(self, name: str, **environment: str) -> Container:
        """Return a board that is not started yet; the pipeline finds it."""
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            self.port = probe.getsockname()[1]
        note = self._folder / f"host/.config/pipeline/devices/{name}.toml"
        text = note.read_text(encoding="utf-8")
        text = text.replace(f'host = "{name}"', f'host = "{LOOPBACK}"').replace(
            "port = 2222", f"port = {self.port}"
        )
        note.write_text(text, encoding="utf-8")
        state = _folder(self._folder / f"{name}-state", self._image)
        volumes = {"/keys:ro": self._folder / name, "/var/lib/device-agent": state}
        listen = ["-o", f"ListenAddress={LOOPBACK}:{self.port}"]
        return Container(self._image, listen, volumes=volumes, environment=environment)

    def ssh(self, *command: str, identity: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Log in to the board that was made last with OpenSSH."""
        options = [
            "BatchMode=yes",
            "IdentitiesOnly=yes",
            "StrictHostKeyChecking=no",
            "UserKnownHostsFile=/dev/null",
        ]
        given = [f"-o{option}" for option in options]
        to = ["-i", str(identity or self.identity), "-p", str(self.port), f"device-agent@{LOOPBACK}"]
        return subprocess.run(
            ["ssh", "-F", "none", *given, *to, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def fleet(tmp_path: Path, board: Image, monkeypatch: pytest.MonkeyPatch) -> Fleet:
    return Fleet(tmp_path, board, monkeypatch)


class TestBoard:
    def test_no_file_gives_rights_and_no_key_is_baked_in(self, board: Image) -> None:
        assert _with_special_bits(board) == []
        assert not list((board.root / "etc/ssh").glob("ssh_host_*"))
        assert not [path for path in (board.root / "keys").rglob("*") if path.is_file()]

    def test_the_pipeline_reaches_its_agent(self, fleet: Fleet) -> None:
        with fleet.board("board1") as container:
            assert container.healthy()
            with open_device("board1") as device:
                assert device.status().runtimes
            assert "SHA256:" in os.read(container.process.stdout.fileno(), 1000).decode()

    def test_its_key_runs_nothing_but_the_agent(self, fleet: Fleet) -> None:
        with fleet.board("board1") as container:
            assert container.healthy()
            done = fleet.ssh("id")  # the agent takes no notice, and ends with its input
            assert (done.returncode, done.stdout) == (0, "")

    def test_another_key_is_refused(self, fleet: Fleet, tmp_path: Path) -> None:
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True
        )
        with fleet.board("board1") as container:
            assert container.healthy()
            refused = fleet.ssh("id", identity=tmp_path / "other")
            assert refused.returncode == 255
            assert "Permission denied (publickey)" in refused.stderr

    def test_a_bare_board_gives_a_shell_and_runs_no_agent(self, fleet: Fleet) -> None:
        with fleet.board("board3", BARE="yes") as container:
            _until_reached(fleet.port)
            assert fleet.ssh("id", "-un").stdout == "device-agent\n"
            assert fleet.ssh("device-agent", "status").returncode == 4
            assert container.process.poll() is None

    @pytest.mark.parametrize("part", ["sshd", "device_agent"])
    def test_it_ends_when_a_part_of_it_does(self, fleet: Fleet, part: str) -> None:
        with fleet.board("board2") as container:
            assert container.healthy()
            found = container.execute(
                "sh",
                "-c",
                f"for p in /proc/[0-9]*; do grep -qa {part} $p/cmdline && echo ${{p#/proc/}}; done",
            )
            for number in found.stdout.split():
                container.execute("kill", number)
            assert container.process.wait(timeout=20) is not None


def _folder(path: Path, image: Image) -> Path:
    """Make a folder that belongs to the image's user, as an engine makes a volume."""
    path.mkdir(exist_ok=True)
    os.chown(path, *map(int, image.user.split(":")))
    for parent in path.parents[:3]:
        parent.chmod(0o755)
    return path


def _with_special_bits(image: Image) -> list[Path]:
    return [
        path
        for path in image.root.rglob("*")
        if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o6000
    ]


def _model(path: Path) -> Path:
    weights = helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 4], np.eye(4, dtype=np.float32).ravel())
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 4])
    found = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 4])
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [given], [found], [weights]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def _until_reached(port: int) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            probe.settimeout(0.2)
            if probe.connect_ex((LOOPBACK, port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("no SSH server")
