"""The devices that must behave alike, each with the same handles: to restart, to wait, to let a worker die."""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import onnx
import pytest
from daemon_process import COMMAND, Daemon
from device import Behaviour, Hardware, SimulatedBoard, SimulatedDevice
from device_models import weights_of, write_model
from onnx.reference import ReferenceEvaluator
from ssh_board import install_agent
from ssh_keys import Key
from sshd import USER, Sshd

from pipeline.bundle import Bundle, build
from pipeline.data.preprocess import Preprocess
from pipeline.device.address import SshAddress
from pipeline.device.client import DeviceClient
from pipeline.device.local import LocalTransport
from pipeline.device.registry import AGENT_COMMAND
from pipeline.device.retry import PATIENT
from pipeline.device.ssh import SshShell, SshTransport
from pipeline.device.values import UpdateState
from pipeline.errors import AgentError
from pipeline.signing import PublicKey, write_trusted

LONGEST_S = 30.0
_MB = 1_000_000


class Simulated:
    """The simulator, whose models are what the real runtime is asked to run."""

    def __init__(
        self, folder: Path, *, keys: Sequence[PublicKey] | None = None, quota_mb: int | None = None
    ) -> None:
        hardware = Hardware(
            cores=len(os.sched_getaffinity(0)), quota_bytes=quota_mb * _MB if quota_mb else None
        )
        behaviour = Behaviour(lambda *_: 0.002, refused=refused, answer=answered)
        self.board = SimulatedBoard(hardware, behaviour, keys=keys)

    def connect(self) -> DeviceClient:
        return SimulatedDevice(self.board)

    def restart(self) -> None:
        self.board.cut_power()

    def wait(self, seconds: float) -> None:
        self.board.clock.advance(seconds)

    @contextmanager
    def dying_workers(self) -> Iterator[None]:
        self.board.faults.kill_workers()
        yield

    def end(self) -> None:
        """Leave nothing behind."""


class _Real:
    """What both real agents have in common."""

    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    @property
    def pid(self) -> int:
        raise NotImplementedError

    @contextmanager
    def dying_workers(self) -> Iterator[None]:
        """Kill every worker that is started meanwhile."""
        ended = threading.Event()
        thread = threading.Thread(target=kill_children, args=(self.pid, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class Standalone(_Real):
    """`device-agent stdio --standalone`, as the local device starts it; it lives as long as its one connection."""

    def __init__(self, folder: Path) -> None:
        self._state = folder / "state"
        self._transport = LocalTransport(self._state)

    @property
    def pid(self) -> int:
        return self._transport.pid or 0

    def connect(self) -> DeviceClient:
        self._transport = LocalTransport(self._state)
        return DeviceClient(self._transport)

    def restart(self) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self._transport.close()

    def end(self) -> None:
        self._transport.close()


class Served(_Real):
    """`device-agent serve`, reached through `device-agent stdio`, as SSH opens it on a board."""

    def __init__(
        self, folder: Path, *, keys: Sequence[PublicKey] | None = None, quota_mb: int | None = None
    ) -> None:
        options = ["--quota-mb", str(quota_mb)] if quota_mb else []
        if keys is not None:
            write_trusted(folder / "keys.json", keys, ())
            options += ["--keys", str(folder / "keys.json")]
        self._daemon = Daemon(folder, *options).start()

    @property
    def pid(self) -> int:
        assert self._daemon.process
        return self._daemon.process.pid

    def connect(self) -> DeviceClient:
        return DeviceClient(BridgeTransport(self._daemon.socket))

    def restart(self) -> None:
        self._daemon.stop(signal.SIGKILL)
        self._daemon.start()

    def end(self) -> None:
        self._daemon.stop()


class OverSsh(Served):
    """The same daemon on a board with a real SSH server, as `open_device` reaches it."""

    def __init__(self, folder: Path, **how: Any) -> None:
        key = Key(folder / "id_ed25519")
        self._server = Sshd([key.public])
        super().__init__(folder, **how)
        install_agent(self._server, self._daemon.socket)
        self._server.start()
        self._address = SshAddress("127.0.0.1", self._server.port, USER, key.path, self._server.host_key)

    def connect(self) -> DeviceClient:
        shell = SshShell(self._address, "over ssh")
        return DeviceClient(SshTransport(shell, AGENT_COMMAND, "over ssh", owns=True), PATIENT)

    def end(self) -> None:
        super().end()
        self._server.__exit__()


Agent = Simulated | Standalone | Served
KINDS: dict[str, type[Agent]] = {
    "simulator": Simulated,
    "standalone": Standalone,
    "daemon": Served,
    "ssh": OverSsh,
}


class Bench:
    """An agent with a connection that is made again after a restart."""

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._device: DeviceClient | None = None

    @property
    def device(self) -> DeviceClient:
        if self._device is None:
            self._device = self.agent.connect()
        return self._device

    @property
    def update(self) -> UpdateState:
        return self.device.status().update

    def staged(self, bundle: Bundle, **how: Any) -> Bundle:
        self.device.push(bundle.files)
        self.device.stage(bundle.digest, **how)
        return bundle

    def checked(self, bundle: Bundle) -> Bundle:
        report = self.device.check(self.staged(bundle).digest)
        assert report.ok, report
        return bundle

    def activated(self, bundle: Bundle, **how: Any) -> Bundle:
        self.device.activate(self.checked(bundle).digest, **how)
        return bundle

    def committed(self, bundle: Bundle) -> Bundle:
        self.device.commit(self.activated(bundle).digest)
        return bundle

    def restart(self) -> None:
        """End the agent as a power cut does, and start it again."""
        self.agent.restart()
        self.disconnect()

    def until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait on the agent's own clock until something is so."""
        for _ in range(int(LONGEST_S / 0.05)):
            if condition():
                return
            self.agent.wait(0.05)
        raise AssertionError(f"never happened: {what}")

    def disconnect(self) -> None:
        if self._device is not None:
            self._device.close()
        self._device = None

    def end(self) -> None:
        self.disconnect()
        self.agent.end()


class BridgeTransport:
    """Runs the bridge to a daemon's socket; a `Transport`."""

    name = "device 'bridged'"

    def __init__(self, socket: Path) -> None:
        self._command = [*COMMAND, "stdio", "--socket", str(socket)]
        self._process: subprocess.Popen[bytes] | None = None

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(self._command, stdin=pipe, stdout=pipe, start_new_session=True)
        return cast("BinaryIO", self._process.stdout), cast("BinaryIO", self._process.stdin)

    def close(self) -> None:
        if self._process is not None:
            self._process.wait(timeout=LONGEST_S)

    def last_words(self) -> str:
        return ""


def kill_children(parent: int, ended: threading.Event) -> None:
    """Kill every process that a process starts from now on."""
    known = set(os.listdir("/proc"))  # noqa: PTH208 - often, and nothing but the names is wanted
    while not ended.wait(0.01):
        new = set(os.listdir("/proc")) - known  # noqa: PTH208
        known |= new
        for name in filter(str.isdigit, new):
            with suppress(OSError):
                fields = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == parent:
                    os.kill(int(name), signal.SIGKILL)


# --- what is sent ---------------------------------------------------------------------------------------------


class Factory:
    """Makes bundles that differ from all before them; each is newer than the one before."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count(1)

    def model(self) -> Path:
        number = next(self._numbers)
        return write_model(self._folder / f"model{number}.onnx", number)

    def bundle(self, *, sequence: int | None = None, off_by: float = 0.0, **changes: Any) -> Bundle:
        number = next(self._numbers)
        model = write_model(self._folder / f"model{number}.onnx", number)
        question = np.ones((1, 4), dtype=np.float32)
        how: dict[str, Any] = {
            "model_file": model,
            "name": "product",
            "run": f"r{number}",
            "runtime": "onnxruntime",
            "threads": 1,
            "preprocess": Preprocess(),
            "labels": None,
            "golden_input": question,
            "golden_output": (question @ weights_of(model) + off_by).astype(np.float32),
            "sequence": number if sequence is None else sequence,
        }
        return build(self._folder / f"bundle{number}", **{**how, **changes})

    def file(self, content: bytes) -> Path:
        path = self._folder / f"file{next(self._numbers)}"
        path.write_bytes(content)
        return path


def refused(content: bytes, runtime: str) -> str:
    """Say why a runtime would not load a file; empty for a good ONNX model."""
    try:
        onnx.checker.check_model(content)
    except Exception as error:  # noqa: BLE001 - the parser's own, and the checker's
        return str(error)
    return ""


def answered(content: bytes, arrays: Sequence[Any]) -> Sequence[Any]:
    """Return what an ONNX model answers."""
    model = ReferenceEvaluator(content)
    return model.run(None, dict(zip(model.input_names, arrays, strict=True)))


# --- what comes back ------------------------------------------------------------------------------------------

FREE = ("missing", "bad")  # objects whose names are content


def code_of(act: Callable[[], object]) -> str:
    """Return the code of the agent's error that an act ends with."""
    with pytest.raises(AgentError, match=r".") as caught:
        act()
    return caught.value.code


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def shape(value: Any) -> Any:
    """Return the names and kinds that an answer is made of, whatever its content."""
    if isinstance(value, dict):
        return {
            name: "names" if name in FREE and isinstance(inner, dict) else shape(inner)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if type(value) in (int, float) else type(value).__name__


def differences(found: Any, expected: Any, where: str = "") -> list[str]:
    """Return where two shapes differ; what one of them has no value for (`None`, no element) may be anything."""
    if "NoneType" in (found, expected) or [] in (found, expected):
        return []
    if isinstance(found, dict) and isinstance(expected, dict):
        apart = [f"{where}.{name}: only one has it" for name in sorted(found.keys() ^ expected.keys())]
        both = found.keys() & expected.keys()
        return apart + [
            each for name in both for each in differences(found[name], expected[name], f"{where}.{name}")
        ]
    if isinstance(found, list) and isinstance(expected, list):
        return differences(found[0], expected[0], f"{where}[]")
    return [] if found == expected else [f"{where}: {found} and {expected}"]
