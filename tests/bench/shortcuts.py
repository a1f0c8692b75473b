"""What a shortcut without weights costs as slice and pad, and as the convolution that it equals.

    python tests/bench/shortcuts.py [--device local] [--models resnet20 resnet56] [--runtimes onnxruntime tflite]
                                    [--pairs 3]

CIFAR's ResNets with random weights, one thread. Each pair is a measurement of both files, in turn. Prints Markdown:
the median of both p50, and the median (smallest to largest) of their ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import torch

from pipeline.convert import converter
from pipeline.device.registry import find_device, open_device
from pipeline.profile import load_profile

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))
import cifar_resnet

REWRITING = "pipeline.convert.capture.with_convolved_shortcuts"


def main() -> None:
    """Convert both ways, measure in pairs, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="local")
    parser.add_argument("--models", nargs="+", default=["resnet20", "resnet56"])
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "tflite"])
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    protocol = load_profile(find_device(options.device).profile).measuring
    print("| model | runtime | slice and pad, ms | convolution, ms | ratio | file, kB more |")
    print("|---|---|---:|---:|---:|---:|")
    with open_device(options.device) as device, tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            for runtime in options.runtimes:
                files = _convert(model, runtime, Path(folder))
                times = [
                    [
                        device.measure(file, runtime=runtime, threads=1, protocol=protocol).latency_ms.p50
                        for file in files
                    ]
                    for _ in range(options.pairs)
                ]
                before, after = (statistics.median(column) for column in zip(*times, strict=True))
                ratios = [new / old for old, new in times]
                more = (files[1].stat().st_size - files[0].stat().st_size) / 1000
                spread = f"{min(ratios):.3f} to {max(ratios):.3f}"
                print(
                    f"| {model} | {runtime} | {before:.4g} | {after:.4g} | "
                    f"{statistics.median(ratios):.3f} ({spread}) | {more:.1f} |",
                    flush=True,
                )


def _convert(name: str, runtime: str, folder: Path) -> tuple[Path, Path]:
    """Write a network with its shortcuts as they are, and as convolutions."""
    model, example = getattr(cifar_resnet, name)().eval(), torch.zeros(1, 3, 32, 32)
    suffix = converter(runtime).suffix
    before, after = folder / f"{name}-before{suffix}", folder / f"{name}-after{suffix}"
    with patch(REWRITING, lambda program: program):
        converter(runtime).convert(model, example, before)
    converter(runtime).convert(model, example, after)
    return before, after


if __name__ == "__main__":
    sys.exit(main())
