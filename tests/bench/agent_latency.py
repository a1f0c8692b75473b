"""The agent's median latency against that of a bare loop over the same model, in one run, pair by pair.

    python tests/bench/agent_latency.py [--pairs 12] [--seconds 2] [--model FILE ...]

Each of a pair is a fresh process pinned to the same core, with the same runtime, input and number of inferences: one is
the agent's measuring worker with its protocol, the other nothing but a loop around the runtime's own call. Which of
them comes first changes from pair to pair, so that drift hits both alike. Prints a markdown table; the ratio is
agent / bare, and 1.00 is an agent that costs nothing. Pairs in which the agent saw others take the core's time are
marked and counted like all others. For TFLite models LiteRT's own tool (`litert-benchmark`, which comes with
ai-edge-litert) is run beside both; it tells its median to 0.01 ms, so models of less than 2 ms are left out there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]
sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]

from device_agent.measure.inputs import prebuilt  # noqa: E402
from device_agent.measure.protocol import MeasuringProtocol  # noqa: E402
from device_agent.measure.runtimes import InputSpec  # noqa: E402
from device_agent.work.workers import Cancellation, Job, Workers  # noqa: E402

RUNTIMES = {".onnx": "onnxruntime", ".tflite": "tflite"}
WARM_UP_S = 0.5
TOOL_FROM_MS = 2.0


def main() -> None:
    """Measure every model in pairs and print one row each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=2.0, help="of inferences, each of a pair")
    parser.add_argument(
        "--model", type=Path, nargs="+", help=".onnx or .tflite files instead of the built ones"
    )
    parser.add_argument("--bare", nargs=2, metavar=("FILE", "RUNS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(json.dumps(bare_loop(Path(options.bare[0]), int(options.bare[1]))))
        return
    print(
        "| model | runtime | runs | agent p50, ms | bare p50, ms | ratio: median (range) "
        "| agent / LiteRT's own tool | disturbed | each pair |"
    )
    print("|---|---|---:|---:|---:|---:|---:|---:|---|")
    with tempfile.TemporaryDirectory() as folder:
        for path in options.model or built(Path(folder)):
            print(
                row(path.resolve(), options.pairs, options.seconds, Workers(Path(folder) / "state")),
                flush=True,
            )


def row(path: Path, pairs: int, seconds: float, workers: Workers) -> str:
    """Measure one model and return its line of the table."""
    runs = max(20, int(seconds * 1e3 / bare(path, 20, workers)))
    agents, bares, tools, disturbed = [], [], [], 0
    for pair in range(pairs):
        for is_agent in (True, False) if pair % 2 == 0 else (False, True):
            if is_agent:
                found = agent(path, runs, workers)
                agents.append(found["latency_ms"]["p50"])
                disturbed += "disturbed" in found["flags"]
            else:
                bares.append(bare(path, runs, workers))
        if path.suffix == ".tflite" and bares[0] > TOOL_FROM_MS:
            tools.append(own_tool(path, runs, workers))
    ratios = [a / b for a, b in zip(agents, bares, strict=True)]
    return (
        f"| {path.stem} | {RUNTIMES[path.suffix]} | {runs} | {statistics.median(agents):.4f} "
        f"| {statistics.median(bares):.4f} "
        f"| {statistics.median(ratios):.4f} ({min(ratios):.3f} to {max(ratios):.3f}) "
        f"| {_against(agents, tools)} | {disturbed} of {pairs} | {' '.join(f'{ratio:.3f}' for ratio in ratios)} |"
    )


def agent(path: Path, runs: int, workers: Workers) -> dict[str, Any]:
    """Have the agent measure a model with exactly so many inferences, once."""
    protocol = MeasuringProtocol(min_runs=runs, min_duration_s=0.0, max_duration_s=600.0, max_attempts=1)
    job = Job("measure", RUNTIMES[path.suffix], 1, protocol, {"path": str(path)})
    return workers.run(job, Cancellation(), lambda _: None)


def bare(path: Path, runs: int, workers: Workers) -> float:
    """Run the bare loop in a fresh process on the core that the agent would take; return its p50 in ms."""
    core = str(workers.cores(1)[0])
    command = [sys.executable, __file__, "--bare", str(path), str(runs)]
    environment = {**os.environ, "BENCH_CORE": core}
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(json.loads(said.stdout))


def own_tool(path: Path, runs: int, workers: Workers) -> float:
    """Run LiteRT's own benchmark on the same core; return its median in ms."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        tool = Path(sys.executable).with_name("litert-benchmark")
        counts = ["--num_runs", str(runs), "--warmup_runs", str(runs), "--num_threads", "1"]
        subprocess.run(
            [tool, "--model", str(path), *counts, "--result_json", str(result)],
            preexec_fn=partial(os.sched_setaffinity, 0, set(workers.cores(1))),
            capture_output=True,
            check=True,
        )
        return float(json.loads(result.read_text())["latency"]["median_ms"])


def _against(agents: list[float], tools: list[float]) -> str:
    if not tools:
        return ""
    ratios = [a / b for a, b in zip(agents, tools, strict=True)]
    return f"{statistics.median(ratios):.4f} ({min(ratios):.3f} to {max(ratios):.3f})"


def bare_loop(path: Path, runs: int) -> float:
    """What anybody would write: warm up, time every call, take the median."""
    os.sched_setaffinity(0, {int(os.environ["BENCH_CORE"])})
    infer = _onnxruntime(path) if path.suffix == ".onnx" else _litert(path)
    until = perf_counter_ns() + WARM_UP_S * 1e9
    while perf_counter_ns() < until:
        infer()
    times = []
    for _ in range(runs):
        begin = perf_counter_ns()
        infer()
        times.append(perf_counter_ns() - begin)
    return statistics.median(times) / 1e6


def _onnxruntime(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    node = session.get_inputs()[0]
    feed = {node.name: prebuilt([InputSpec(node.name, tuple(node.shape), "float32")])[0]}
    return lambda: session.run(None, feed)


def _litert(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(path), num_threads=1)
    interpreter.allocate_tensors()
    detail = interpreter.get_input_details()[0]
    spec = InputSpec(detail["name"], tuple(map(int, detail["shape"])), np.dtype(detail["dtype"]).name)
    interpreter.set_tensor(detail["index"], prebuilt([spec])[0])
    return interpreter.invoke


def built(folder: Path) -> Iterator[Path]:
    """Convert a small and a middle-sized network for both runtimes."""
    import torch
    from cifar_resnet import resnet20
    from digits_cnn import digits_cnn

    from pipeline.convert import converter

    torch.manual_seed(0)
    networks = {
        "digits_cnn": (digits_cnn(), (1, 1, 8, 8)),
        "resnet20": (resnet20(), (1, 3, 32, 32)),
        "resnet20 at 96x96": (resnet20(), (1, 3, 96, 96)),
    }
    for name, (network, shape) in networks.items():
        for suffix, runtime in RUNTIMES.items():
            path = folder / f"{name}{suffix}"
            converter(runtime).convert(network.eval(), torch.zeros(shape), path)
            yield path


if __name__ == "__main__":
    main()
