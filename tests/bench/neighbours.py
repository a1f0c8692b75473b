"""What layers cost in company: the sum of single layers beside the whole model, with and without timed neighbours.

    python tests/bench/neighbours.py [--device local] [--models resnet8 mobilenet_v2 ds_cnn]

onnxruntime, whole widths. "Neighbours" are two convolutions where the second takes what the first gives and nothing
comes between but an activation: both are timed in one file, and what they take less than alone is taken off the sum.
Prints Markdown: ms, and how far the sums are from the whole model's median.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import loop_models
import onnx
import torch
from loop import SHAPES
from onnx.compose import merge_models

from pipeline.convert import converter
from pipeline.device.client import DeviceClient
from pipeline.device.registry import find_device, open_device
from pipeline.graph import trace
from pipeline.profile import DeviceProfile, load_profile
from pipeline.search import EMPTY, LayerShape, build_layer_model
from pipeline.search.shapes import shape_at

RUNTIME = "onnxruntime"
File = tuple[LayerShape, ...]  # the layers in it, in order


def main() -> None:
    """Time all models and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="local")
    parser.add_argument("--models", nargs="+", default=list(SHAPES), choices=list(SHAPES))
    options = parser.parse_args()
    profile = load_profile(find_device(options.device).profile)
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
    layers = [shape_at(layer, graph.widths()) for layer in graph.layers]
    pairs = [pair for pair in pairwise(layers) if _joined(*pair)]
    files: list[File] = [(EMPTY,), *((layer,) for layer in layers), *pairs]
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.onnx"
        converter(RUNTIME).convert(model, example, whole)
        ms = _times(device, profile, list(dict.fromkeys(files)), Path(folder))
        measured = device.measure(whole, runtime=RUNTIME, threads=1, protocol=profile.measuring)
    empty = ms[(EMPTY,)]
    alone = empty + sum(ms[(layer,)] - empty for layer in layers)
    less = sum(ms[pair] + empty - ms[pair[:1]] - ms[pair[1:]] for pair in pairs)
    return measured.latency_ms.p50, alone, alone + less


def _joined(first: LayerShape, second: LayerShape) -> bool:
    convolutions = first.kind == second.kind == "conv2d"
    return (
        convolutions and first.out_width == second.in_width and first.output_hw == second.input_hw
    )  # in these models nothing else of that size comes between


def _times(
    device: DeviceClient, profile: DeviceProfile, files: Sequence[File], folder: Path
) -> Mapping[File, float]:
    paths = [_build(file, folder / f"{number}.onnx") for number, file in enumerate(files)]
    timings = device.measure_layers(paths, runtime=RUNTIME, threads=1, protocol=profile.measuring)
    return {file: timing.p50_ms for file, timing in zip(files, timings, strict=True)}


def _build(file: File, path: Path) -> Path:
    """Write one layer, or two behind each other."""
    build_layer_model(file[0], RUNTIME, path)
    for number, shape in enumerate(file[1:], 1):
        before = onnx.load(path)
        build_layer_model(shape, RUNTIME, path)
        names = {"prefix1": "", "prefix2": f"{number}/"}
        merged = merge_models(before, onnx.load(path), io_map=[("output", "input")], **names)
        path.write_bytes(merged.SerializeToString(deterministic=True))
    return path


if __name__ == "__main__":
    sys.exit(main())
