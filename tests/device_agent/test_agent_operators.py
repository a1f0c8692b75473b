"""Times of single operators, through the runtimes' own profilers."""

import tempfile
from pathlib import Path

import pytest
from agent_process import onnx_model
from tflite_file import tflite_add

from device_agent.measure import operators, runtimes
from device_agent.measure.runtimes import OperatorCall


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def model(tmp_path, data):
    path = tmp_path / "model"
    path.write_bytes(data)
    return path


def test_onnxruntime_tells_the_time_of_every_operator(tmp_path, scratch):
    path = model(tmp_path, onnx_model(width=64, repeat=3))
    rows, why = operators.measure(runtimes.open_runtime("onnxruntime"), path, 1)
    assert why == ""
    assert [row["kind"] for row in rows] == ["MatMul", "Relu"] * 3
    assert len({row["name"] for row in rows}) == 6, "operators without a name of their own are told apart"
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    assert all(row["calls"] >= 2 and row["p50_ms"] >= 0 for row in rows)
    assert list(scratch.iterdir()) == []


def test_a_model_with_many_operators_runs_fewer_times(tmp_path, monkeypatch):
    monkeypatch.setattr(operators, "_MOST_CALLS", 60)
    path = model(tmp_path, onnx_model(width=8, repeat=3))
    rows, _ = operators.measure(runtimes.open_runtime("onnxruntime"), path, 1)
    assert [row["calls"] for row in rows] == [8] * 6, "ten runs fit, a fifth of them warms up"


def test_tflite_says_why_it_has_none(tmp_path):
    rows, why = operators.measure(runtimes.open_runtime("tflite"), model(tmp_path, tflite_add()), 1)
    assert rows is None
    assert "no times of single operators" in why


def test_a_profiler_that_fails_is_told_and_no_fault(tmp_path, scratch):
    rows, why = operators.measure(runtimes.open_runtime("onnxruntime"), model(tmp_path, b"no model"), 1)
    assert rows is None
    assert why.startswith("the runtime's profiler failed: ")
    assert list(scratch.iterdir()) == []


def test_a_profile_that_is_cut_off_is_not_taken(tmp_path):
    from device_agent.measure.runtimes.onnxruntime import _calls

    event = '{"cat" : "Node","dur" :5,"name" :"a_kernel_time","args" : {"op_name" : "Conv"}}'
    whole, cut = tmp_path / "whole.json", tmp_path / "cut.json"
    whole.write_text(f"[\n{event},\n{event}\n]\n")
    cut.write_text(f"[\n{event},\n")
    assert list(_calls(whole)) == [OperatorCall("a", "Conv", 5.0)] * 2
    with pytest.raises(ValueError, match="cut off"):
        list(_calls(cut))


def test_the_calls_of_an_operator_are_put_together_without_the_first_fifth():
    calls = [OperatorCall(name, "Conv", us) for us in (100, 1, 2, 2, 3) for name in ("a", "b")]
    calls += [OperatorCall("b", "Relu", 8)]
    assert operators.rows(calls) == [
        {"name": "a", "kind": "Conv", "calls": 4, "p50_ms": 0.002, "share": pytest.approx(8 / 24)},
        {"name": "b", "kind": "Conv", "calls": 4, "p50_ms": 0.002, "share": pytest.approx(8 / 24)},
        {"name": "b", "kind": "Relu", "calls": 1, "p50_ms": 0.008, "share": pytest.approx(8 / 24)},
    ]


def test_a_call_that_was_interrupted_does_not_move_the_shares():
    calls = [OperatorCall("a", "Conv", us) for us in (5, 5, 5, 5, 5, 5, 4000, 5, 5, 5)]
    calls += [OperatorCall("b", "Conv", 15)] * 10
    assert [row["share"] for row in operators.rows(calls)] == pytest.approx([0.25, 0.75])


def test_the_body_of_a_loop_is_counted_once(tmp_path):
    rows, _ = operators.measure(runtimes.open_runtime("onnxruntime"), model(tmp_path, looping()), 1)
    assert "Loop" not in [row["kind"] for row in rows]
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def looping() -> bytes:
    """A model that multiplies its input with itself in a loop of three rounds."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    row = [8, 8]
    body = helper.make_graph(
        [helper.make_node("MatMul", ["a", "a"], ["b"]), helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [
            helper.make_tensor_value_info("round", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", TensorProto.FLOAT, row),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("b", TensorProto.FLOAT, row),
        ],
    )
    graph = helper.make_graph(
        [helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)],
        "loop",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, row)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, row)],
        [
            numpy_helper.from_array(np.array(3, np.int64), "rounds"),
            numpy_helper.from_array(np.array(True), "yes"),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return made.SerializeToString()


def test_a_real_profile_goes_to_the_folder_that_was_given(tmp_path):
    path, kept = model(tmp_path, onnx_model()), []
    runtime = runtimes.open_runtime("onnxruntime")
    calls = runtime.profile(path, 1, tmp_path, lambda session: kept.append(session.inputs))
    assert kept[0][0].name == "x0"
    assert calls == [], "nothing ran"
    assert not list(Path(tmp_path).glob("operators*"))
