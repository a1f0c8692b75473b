"""Models to be measured and to travel: two that are real and small, and one whose upload takes a while."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
_WIDTH = 2200  # 19 MB


def digits(folder: Path, runtime: str, seed: int = 0) -> Path:
    """Write the shipped network for digits, with weights of chance, for a runtime."""
    import torch

    from pipeline.convert import converter

    sys.path.insert(0, str(EXAMPLES))
    try:
        from digits_cnn import digits_cnn
    finally:
        sys.path.remove(str(EXAMPLES))
    torch.manual_seed(seed)
    writer = converter(runtime)
    path = folder / f"digits-{seed}{writer.suffix}"
    writer.convert(digits_cnn().eval(), torch.zeros(1, 1, 8, 8), path)
    return path


def heavy(folder: Path) -> Path:
    """Write one large matrix product, with other weights each time."""
    weights = np.random.default_rng().standard_normal((_WIDTH, _WIDTH), np.float32) / _WIDTH
    row = [1, _WIDTH]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "heavy",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, row)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, row)],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path = folder / "heavy.onnx"
    path.write_bytes(model.SerializeToString())
    return path
