"""What it brings on the host that freed memory stays with the process (`pipeline/host_memory.py`).

    python tests/bench/host_memory.py [--pairs 5] [--batch 128]

Times a training step and an inference of the loop bench's networks on one thread, each in a process of its own, with
and without, in turns; prints Markdown: medians in ms, and the median of the ratios of the pairs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pipeline.host_memory import keep_freed_memory

REPEATS = 3
SHAPES = {"mobilenet_v2": (3, 32, 32), "resnet8": (3, 32, 32), "ds_cnn": (1, 49, 10)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--one", nargs=2, metavar=("MODEL", "HOW"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(_times(*options.one, options.batch)))
        return
    print("| model | of a batch | plain, ms | kept, ms | plain / kept |\n|---|---|---:|---:|---:|")
    for model in SHAPES:
        pairs = [
            [_asked(model, how, options.batch) for how in ("plain", "kept")] for _ in range(options.pairs)
        ]
        for what in ("training step", "inference"):
            plain, kept = ([pair[side][what] for pair in pairs] for side in (0, 1))
            ratio = statistics.median(before / after for before, after in zip(plain, kept, strict=True))
            times = f"{statistics.median(plain):.0f} | {statistics.median(kept):.0f}"
            print(f"| {model} | {what} | {times} | {ratio:.2f} |")


def _asked(model: str, how: str, batch: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--batch", str(batch), "--one", model, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    times: dict[str, float] = json.loads(done.stdout)
    return times


def _times(name: str, how: str, batch: int) -> dict[str, float]:
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    import loop_models

    if how == "kept":
        keep_freed_memory()
    torch.set_num_threads(1)
    model = getattr(loop_models, name)().to(memory_format=torch.channels_last)
    inputs = torch.randn(batch, *SHAPES[name]).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        model.zero_grad()
        model(inputs).sum().backward()

    def inference() -> None:
        with torch.inference_mode():
            model(inputs)

    training = _fastest_ms(step)
    model.eval()
    return {"training step": training, "inference": _fastest_ms(inference)}


def _fastest_ms(act: Callable[[], None]) -> float:
    act()
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        act()
        times.append(1e3 * (time.perf_counter() - begin))
    return min(times)


if __name__ == "__main__":
    main()
