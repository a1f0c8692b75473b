"""What layers cost in company: the sum of single layers beside the whole model, with and without timed neighbours.

    python tests/bench/neighbours.py [--device local] [--models resnet8 mobilenet_v2 ds_cnn] [--runtime onnxruntime]

Whole widths, built and timed as the latency table of a deploy. Prints Markdown: ms, and how far the sums are from the
whole model's median.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import loop_models
import torch
from loop import SHAPES

from pipeline.convert import converter
from pipeline.device.client import DeviceClient
from pipeline.device.registry import find_device, open_device
from pipeline.graph import trace
from pipeline.profile import DeviceProfile, load_profile
from pipeline.search import (
    EMPTY,
    LatencyTable,
    Shape,
    build_layer_model,
    pair_shapes,
    table_shapes,
    times_of,
)


def main() -> None:
    """Time all models and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="local")
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--runtime", default="onnxruntime", choices=["onnxruntime", "tflite"])
    options = parser.parse_args()
    profile = replace(load_profile(find_device(options.device).profile), runtime=options.runtime)
    print("| model | whole, ms | layers alone | off by | with neighbours | off by |")
    print("|---|---:|---:|---:|---:|---:|")
    with open_device(options.device) as device:
        for model in options.models:
            whole, alone, together = _sums(device, profile, model)
            print(
                f"| {model} | {whole:.4f} | {alone:.4f} | {100 * (alone / whole - 1):+.1f} % | "
                f"{together:.4f} | {100 * (together / whole - 1):+.1f} % |"
            )


def _sums(device: DeviceClient, profile: DeviceProfile, name: str) -> tuple[float, float, float]:
    """Return the ms of the whole model, of the sum of its layers, and of that with neighbours together."""
    model, example = getattr(loop_models, name)().eval(), torch.zeros(1, *SHAPES[name])
    graph = trace(model, example)
    whole = {group: (width,) for group, width in graph.widths().items()}
    with tempfile.TemporaryDirectory() as folder:
        clock = _Clock(device, profile, Path(folder))
        alone = clock.times((EMPTY, *table_shapes(graph, whole)))
        together = clock.times(pair_shapes(graph, whole))
        file = Path(folder) / f"whole{converter(profile.runtime).suffix}"
        converter(profile.runtime).convert(model, example, file)
        measured = device.measure(file, runtime=profile.runtime, threads=1, protocol=profile.measuring)
    return (
        measured.latency_ms.p50,
        LatencyTable.from_times(alone).predict(graph, {}),
        LatencyTable.from_times(alone, together).predict(graph, {}),
    )


class _Clock:
    """Has shapes timed as files in a folder."""

    def __init__(self, device: DeviceClient, profile: DeviceProfile, folder: Path) -> None:
        self._device, self._profile, self._folder = device, profile, folder

    def times(self, shapes: Sequence[Shape]) -> dict[Shape, float]:
        runtime, files = self._profile.runtime, []
        for shape in shapes:
            path = self._folder / f"{shape.key.replace(' ', '_')}{converter(runtime).suffix}"
            build_layer_model(shape, runtime, path)
            files.append(path)
        timings = self._device.measure_layers(
            files, runtime=runtime, threads=1, protocol=self._profile.measuring
        )
        return times_of(shapes, timings)


if __name__ == "__main__":
    sys.exit(main())
