"""A layer shape as a small model file that the device can time alone.

What is built is the layer, its bias and the activation behind it, with plain inputs and outputs, and
nothing else. The cost of the call itself is measured with `EMPTY` and subtracted (`table.py`).

onnxruntime on x86 with AVX-512 computes convolutions in a blocked layout and pays a reorder at both ends of a
single-layer model that the whole model does not pay; so neighbours are timed in one file, too (`company.py`).

Additions and poolings are in no such model: the sum lacks about 5 % of ResNet-20 in LiteRT 2.3
(`tests/bench/prediction.py`).
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import InputError
from pipeline.search.shapes import LayerShape, PairShape


def build_layer_model(shape: LayerShape | PairShape, runtime: str, path: Path) -> None:
    """Write a layer (or `EMPTY`), or two behind each other, as a model of "onnxruntime" or "tflite" to `path`.

    Weights are random, the bytes the same every time. Input and output are float32, batch 1; convolutions
    take (1, C, H, W) in onnxruntime and (1, H, W, C) in tflite, linear layers (rows, C).

    Raises:
        InputError: the runtime is unknown, or the package for its file format is not installed.
    """
    layers = (shape.first, shape.second) if isinstance(shape, PairShape) else (shape,)
    if runtime == "onnxruntime":
        from pipeline.search import onnx_layers

        onnx_layers.build(layers, path)
    elif runtime == "tflite":
        from pipeline.search import tflite_layers

        tflite_layers.build(layers, path)
    else:
        raise InputError(f"unknown runtime {runtime!r}", hint="use onnxruntime or tflite")
