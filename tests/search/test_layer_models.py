from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
import torch

from pipeline.errors import InputError
from pipeline.search import EMPTY, LayerShape, build_layer_model
from pipeline.search.layer_weights import random_weights

RUNTIMES = ("onnxruntime", "tflite")
SHAPES = [
    LayerShape("conv2d", 3, 16, (3, 3), (1, 1), (1, 1), (1, 1), 1, (9, 9), True, "relu"),
    LayerShape(
        "conv2d", 12, 20, (3, 3), (2, 2), (1, 1), (1, 1), 1, (8, 8), True, None
    ),  # even size: needs a PAD in TFLite
    LayerShape("conv2d", 12, 20, (3, 3), (2, 2), (1, 1), (1, 1), 1, (9, 9), True, None),  # odd size: SAME
    LayerShape("conv2d", 7, 5, (1, 1), (2, 2), (0, 0), (1, 1), 1, (8, 8), False, None),
    LayerShape("conv2d", 6, 10, (5, 3), (2, 1), (2, 1), (1, 1), 1, (11, 7), True, "relu6"),
    LayerShape("conv2d", 4, 8, (3, 3), (1, 1), (0, 0), (1, 1), 1, (6, 6), True, "relu"),
    LayerShape("conv2d", 4, 8, (10, 4), (2, 2), (5, 1), (1, 1), 1, (49, 10), True, "relu"),
    LayerShape("conv2d", 14, 14, (3, 3), (1, 1), (1, 1), (1, 1), 14, (8, 8), True, "relu6"),
    LayerShape("conv2d", 8, 16, (3, 3), (2, 2), (1, 1), (1, 1), 8, (8, 8), True, None),
    LayerShape("conv2d", 8, 12, (3, 3), (1, 1), (1, 1), (1, 1), 4, (5, 5), True, "relu"),
    LayerShape("conv2d", 6, 9, (3, 3), (1, 1), (2, 2), (2, 2), 1, (9, 9), True, "relu"),
    LayerShape("conv2d", 6, 9, (3, 3), (2, 2), (3, 2), (2, 3), 1, (12, 12), True, None),
    LayerShape("linear", 37, 10, bias=True),
    LayerShape("linear", 12, 8, input_hw=(5, 1)),
    LayerShape("linear", 16, 3, bias=False, activation="relu"),
]


def by_torch(shape, inputs):
    weight, bias = (None if value is None else torch.from_numpy(value) for value in random_weights(shape))
    inputs = torch.from_numpy(inputs)
    if shape.kind == "linear":
        outputs = torch.nn.functional.linear(inputs, weight, bias)
    else:
        outputs = torch.nn.functional.conv2d(
            inputs, weight, bias, shape.stride, shape.padding, shape.dilation, shape.groups
        )
    limits = {"relu": (0.0, None), "relu6": (0.0, 6.0)}.get(shape.activation)
    return (outputs if limits is None else outputs.clamp(*limits)).numpy()


def by_runtime(path, runtime, inputs):
    """Run a layer on NCHW inputs and return NCHW outputs, whatever layout the runtime has."""
    if runtime == "onnxruntime":
        return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(
            None, {"input": inputs}
        )[0]
    from ai_edge_litert.interpreter import Interpreter

    image = inputs.ndim == 4
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    interpreter.set_tensor(
        interpreter.get_input_details()[0]["index"], inputs.transpose(0, 2, 3, 1).copy() if image else inputs
    )
    interpreter.invoke()
    outputs = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return outputs.transpose(0, 3, 1, 2) if image else outputs


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.key)
def test_the_runtime_computes_what_torch_computes(shape, runtime, tmp_path):
    path = tmp_path / "layer"
    build_layer_model(shape, runtime, path)
    dims = (
        (shape.input_hw[0], shape.in_width)
        if shape.kind == "linear"
        else (1, shape.in_width, *shape.input_hw)
    )
    inputs = np.random.default_rng(0).standard_normal(dims, dtype=np.float32)
    expected = by_torch(shape, inputs)
    assert expected.shape[1:] == (
        (shape.out_width,) if shape.kind == "linear" else (shape.out_width, *shape.output_hw)
    )
    np.testing.assert_allclose(by_runtime(path, runtime, inputs), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_empty_call_runs(runtime, tmp_path):
    build_layer_model(EMPTY, runtime, tmp_path / "empty")
    inputs = np.ones((1, 1), np.float32)
    assert by_runtime(tmp_path / "empty", runtime, inputs) == inputs


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("shape", [EMPTY, *SHAPES[:2], SHAPES[-1]], ids=lambda shape: shape.key)
def test_the_same_shape_gives_the_same_bytes(shape, runtime, tmp_path):
    build_layer_model(shape, runtime, tmp_path / "one")
    build_layer_model(shape, runtime, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_tflite_pads_by_an_operator_only_where_same_padding_differs(tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    def tensors(shape):
        build_layer_model(shape, "tflite", tmp_path / "layer")
        return [tensor["name"] for tensor in Interpreter(str(tmp_path / "layer")).get_tensor_details()]

    assert "padded" in tensors(SHAPES[1])
    assert "padded" not in tensors(SHAPES[2])
    assert "padded" not in tensors(SHAPES[0])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.key)
def test_weights_are_neither_zero_nor_denormal(shape):
    weight, bias = random_weights(shape)
    assert np.abs(weight).min() >= 1e-4
    assert bias is None or np.abs(bias).min() >= 1e-4


def test_an_unknown_runtime_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match="onnxruntime or tflite"):
        build_layer_model(EMPTY, "ncnn", tmp_path / "layer")
