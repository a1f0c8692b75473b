"""The check of a bundle's golden output: what it says of right, wrong and useless answers."""

import json

import numpy as np
import pytest
from agent_process import onnx_model
from onnx import TensorProto, helper

from device_agent.measure import golden, pace, runtimes
from device_agent.measure.pace import Pace

ONES = np.ones((1, 16), np.float32)


def logarithm():
    """A model that answers with NaN to negative numbers."""
    row = [1, 16]
    graph = helper.make_graph(
        [helper.make_node("Log", ["x"], ["y"])],
        "logarithm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, row)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, row)],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return made.SerializeToString()


def check(folder, *, given=ONES, wanted=ONES / 2, model=None, usual_ns=None):
    (folder / "model.onnx").write_bytes(model or onnx_model())
    np.save(folder / "in.npy", given)
    np.save(folder / "out.npy", wanted)
    names = {"model": "model.onnx", "inputs": ["in.npy"], "outputs": ["out.npy"], "rtol": 1e-3, "atol": 1e-5}
    found = golden.check(runtimes.open_runtime("onnxruntime"), folder, 1, names, Pace(usual_ns))
    json.dumps(found, allow_nan=False)
    return found


def test_a_right_answer_is_ok_and_its_best_window_is_told(tmp_path):
    found = check(tmp_path)
    assert (found["ok"], found["why"], found["max_abs_error"]) == (True, "", 0.0)
    assert 0 < found["latency_best_ms"] <= found["latency_p50_ms"] * 1.001
    assert found["runs"] >= 5


def test_a_processor_that_is_slow_all_along_is_told_with_the_time(tmp_path, monkeypatch):
    monkeypatch.setattr(golden, "_LONGEST_S", 0.2)
    monkeypatch.setattr(pace, "_yardstick_ns", lambda: 2000.0)
    assert check(tmp_path)["slowdown"] == 1.0
    assert check(tmp_path, usual_ns=1000.0)["slowdown"] == pytest.approx(2.0 / pace.ELSEWHERE)


@pytest.mark.parametrize(
    ("wrong", "why", "max_abs_error"),
    [
        ({"wanted": ONES}, "differs from the golden output by up to 0.5", 0.5),
        ({"wanted": np.zeros((1, 4), np.float32)}, "shapes [(1, 16)], expected were [(1, 4)]", None),
        ({"wanted": ONES * np.nan}, "the golden output has values that are not finite", None),
        ({"given": -ONES, "model": logarithm()}, "its answer has values that are not finite", None),
        (
            {"given": -ONES, "wanted": ONES * np.nan, "model": logarithm()},
            "its answer has values that are not finite",
            None,
        ),
    ],
)
def test_a_wrong_answer_says_what_is_wrong(tmp_path, wrong, why, max_abs_error):
    found = check(tmp_path, **wrong)
    assert found["ok"] is False
    assert why in found["why"]
    assert found["max_abs_error"] == max_abs_error
