"""A real `device-agent serve` process, clients of it, and bundles to send, for tests."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from agent_process import onnx_model
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import device_agent
from device_agent import wire
from device_agent.errors import RequestError
from device_agent.serve.bridge import connect
from device_agent.serve.client import Client
from device_agent.updates import trust

PACKAGE = Path(device_agent.__file__).parent.parent
COMMAND = [sys.executable, "-m", "device_agent"]


class Daemon:
    """`device-agent serve` on a state folder; started anew on the same one as often as one likes."""

    def __init__(self, folder: Path, *options: str, command: str = "serve", **environment: str) -> None:
        self.state = folder / "state"
        self.socket = folder / "agent.sock"
        place = ["--state", str(self.state), "--socket", str(self.socket)]
        self.command = [*COMMAND, command, *place, *options]
        self.environment = {**os.environ, "PYTHONPATH": str(PACKAGE), **environment}
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, wait: bool = True) -> Daemon:
        with self.log.open("ab") as stream:
            self.process = subprocess.Popen(self.command, stderr=stream, env=self.environment, cwd="/")
        if wait:
            until(self._answers, f"an agent at {self.socket}: {self.log.read_text()}")
        return self

    def client(self) -> Client:
        return Client(connect(self.socket))

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        with self.client() as client:
            return client.ask(method, params)

    def error(self, method: str, **params: Any) -> str:
        try:
            answer = self.ask(method, **params)
        except RequestError as error:
            return error.code
        raise AssertionError(answer)

    def put(self, data: bytes, purpose: str = "bundle") -> str:
        with self.client() as client:
            return put(client, data, purpose)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(timeout=30)

    def _answers(self) -> bool:
        assert self.process
        assert self.process.poll() is None, self.log.read_text()
        try:
            self.client().close()
        except RequestError:
            return False
        return True


def put(client: Client, data: bytes, purpose: str = "bundle") -> str:
    """Send a file of at most one chunk over the client's own connection."""
    sha256 = hashlib.sha256(data).hexdigest()
    params = {"sha256": sha256, "size": len(data), "offset": 0, "purpose": purpose}
    client._socket.sendall(wire.encode_frame({"id": 10**6, "method": "files.put", "params": params}, data))
    answer = client._read().header
    assert answer["result"] == {"received": len(data)}, answer
    return sha256


def until(condition: Any, what: str, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"never happened: {what}")


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=False)
    return stream.getvalue()


def model_files(scale: float = 1.0) -> dict[str, bytes]:
    """The files of a bundle whose golden answer is right for scale 1."""
    values = np.linspace(-1, 1, 16, dtype=np.float32)[None]
    return {
        "model.onnx": onnx_model(),
        "golden_input.npy": npy(values),
        "golden_output.npy": npy(np.maximum(values * 0.5 * scale, 0)),
    }


def manifest_of(files: dict[str, bytes], **changes: Any) -> bytes:
    document = {
        "format": 1,
        "name": "chain",
        "sequence": 0,
        "model": {"file": "model.onnx", "runtime": "onnxruntime", "threads": 1},
        "files": {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
            for name, data in files.items()
        },
        "golden": {
            "inputs": ["golden_input.npy"],
            "outputs": ["golden_output.npy"],
            "tolerance": {"rtol": 1e-3, "atol": 1e-3},
        },
        **changes,
    }
    return json.dumps(document, sort_keys=True).encode()


def send_bundle(daemon: Daemon, *, scale: float = 1.0, **changes: Any) -> str:
    """Upload a bundle and return its digest; bundles of another name are other bundles."""
    files = model_files(scale)
    for data in files.values():
        daemon.put(data)
    return daemon.put(manifest_of(files, **changes))


def activate(daemon: Daemon, bundle: str, **params: Any) -> int:
    daemon.ask("bundle.stage", manifest_sha256=bundle)
    assert daemon.ask("bundle.check", bundle=bundle)["ok"]
    generation: int = daemon.ask("bundle.activate", bundle=bundle, **params)["generation"]
    return generation


def deploy(daemon: Daemon, bundle: str) -> int:
    activate(daemon, bundle)
    generation: int = daemon.ask("bundle.commit", bundle=bundle)["generation"]
    return generation


class Signer:
    """A key, and the file of trusted keys that lists it."""

    def __init__(self) -> None:
        self.private = Ed25519PrivateKey.generate()
        self.public = self.private.public_key().public_bytes_raw()
        self.id = trust.key_id(self.public)

    def sign(self, manifest: bytes) -> dict[str, str]:
        signature = self.private.sign(trust.CONTEXT + manifest)
        return {"key": self.id, "signature": base64.b64encode(signature).decode()}


def write_keys(path: Path, *signers: Signer, revoked: tuple[Signer, ...] = ()) -> Path:
    keys = [{"id": s.id, "public": base64.b64encode(s.public).decode(), "owner": "tests"} for s in signers]
    path.write_text(json.dumps({"format": 1, "keys": keys, "revoked": [s.id for s in revoked]}))
    path.chmod(0o644)
    return path
