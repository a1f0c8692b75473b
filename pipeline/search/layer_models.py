"""A layer shape as a small model file that the device can time alone.

What is built is the layer, its bias and the activation behind it, with plain inputs and outputs, and
nothing else. The cost of the call itself is measured with `EMPTY` and subtracted (`table.py`).

Tried against this: onnxruntime 1.31 on x86 with AVX-512 computes convolutions in a blocked layout and pays
a reorder at both ends of a single-layer model that the whole model does not pay. ResNet-20 and thirteen of
random widths, one thread, 150 runs each, sum of layers against the whole model, median of the error
(largest):

    the layer alone                                         2.4 % (5.5 %)
    three times in parallel, summed, a third of the time    8.0 % (11 %)
    difference of the two, free of any reorder             10.1 % (14 %)

The last two always lie 5 to 14 % below: the whole model also adds, slices, pads and pools, which no table
entry holds, and the reorders seem to stand in for that. So the plain layer stays, and feedback from
whole-model measurements takes care of the rest.

With LiteRT 2.3 on the same machine the sum lacks 0.075 to 0.078 ms of 0.35 to 0.43 ms in five ResNet-20 whose
trunk stayed whole: what the other operators take, a constant rather than a factor.
"""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import InputError
from pipeline.search.shapes import LayerShape


def build_layer_model(shape: LayerShape, runtime: str, path: Path) -> None:
    """Write `shape` (or `EMPTY`) as a model of `runtime`, "onnxruntime" or "tflite", to `path`.

    Weights are random, the bytes the same every time. Input and output are float32, batch 1; convolutions
    take (1, C, H, W) in onnxruntime and (1, H, W, C) in tflite, linear layers (rows, C).

    Raises:
        InputError: the runtime is unknown, or the package for its file format is not installed.
    """
    if runtime == "onnxruntime":
        from pipeline.search import onnx_layers

        onnx_layers.build(shape, path)
    elif runtime == "tflite":
        from pipeline.search import tflite_layers

        tflite_layers.build(shape, path)
    else:
        raise InputError(f"unknown runtime {runtime!r}", hint="use onnxruntime or tflite")
