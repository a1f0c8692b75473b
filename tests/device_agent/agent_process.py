"""A real agent process and a host's end of its pipes, for tests."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from device_agent import wire

QUICK = {
    "min_runs": 20,
    "min_duration_s": 0.05,
    "max_duration_s": 1.0,
    "warmup_max_s": 0.2,
    "max_attempts": 2,
    "cooldown_s": 0.01,
    "layer_min_runs": 10,
    "layer_max_duration_s": 0.1,
    "timeout_s": 60.0,
}


class AgentProcess:
    """`device-agent stdio --standalone` and what was heard from it."""

    def __init__(self, state: Path, *, hello: bool = True, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "device_agent", "stdio", "--standalone", "--state", str(state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )
        self._number = 0
        self.events: list[dict[str, Any]] = []
        if hello:
            self.send({"hello": {"protocols": [1], "client": "tests"}})
            self.hello = self.read()

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        assert self.process.stdin
        wire.write_frame(self.process.stdin, header, payload)

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        frame = wire.read_frame(self.process.stdout)
        assert frame is not None, "the agent ended"
        return frame.header

    def begin(self, method: str, params: dict[str, Any] | None = None, payload: bytes = b"") -> int:
        self._number += 1
        self.send({"id": self._number, "method": method, "params": params or {}}, payload)
        return self._number

    def answer(self, number: int) -> dict[str, Any]:
        while True:
            header = self.read()
            if header.get("id") != number:
                raise AssertionError(header)
            if "event" not in header:
                return header
            self.events.append(header["event"])

    def ask(self, method: str, params: dict[str, Any] | None = None, payload: bytes = b"") -> dict[str, Any]:
        return self.answer(self.begin(method, params, payload))

    def result(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.ask(method, params)
        assert "result" in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    def error(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        answer = self.ask(method, params)
        assert "error" in answer, answer
        found: dict[str, Any] = answer["error"]
        return found

    def put(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        for offset in range(0, max(1, len(data)), wire.MAX_PAYLOAD):
            chunk = data[offset : offset + wire.MAX_PAYLOAD]
            answer = self.ask("files.put", {"sha256": sha256, "size": len(data), "offset": offset}, chunk)
            assert answer["result"] == {"received": offset + len(chunk)}, answer
        return sha256

    def close(self) -> int:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        status = self.process.wait(timeout=20)
        self.process.stdout.close()
        return status


def onnx_model(width: int = 16, repeat: int = 1) -> bytes:
    """A chain of `repeat` matrix products with a ReLU, (1, width) → (1, width)."""
    weights = np.eye(width, dtype=np.float32) * 0.5
    nodes = []
    for step in range(repeat):
        nodes += [
            helper.make_node("MatMul", [f"x{step}", "w"], [f"y{step}"]),
            helper.make_node("Relu", [f"y{step}"], [f"x{step + 1}"]),
        ]
    row = [1, width]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, row)],
        [helper.make_tensor_value_info(f"x{repeat}", TensorProto.FLOAT, row)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()
