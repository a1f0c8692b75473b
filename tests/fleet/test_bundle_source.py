"""What can be pushed: a folder, a run, or a bare file that becomes a bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from agent_process import onnx_model
from onnx import TensorProto, helper, numpy_helper
from tflite_file import tflite_add

from pipeline.bundle import read
from pipeline.bundle_source import bare_model, find_bundle, is_model_file, runtime_of
from pipeline.errors import InputError, ModelError, RunError
from pipeline.store import Store


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def graph(
    nodes: list[onnx.NodeProto], inputs: dict[str, int], outputs: dict[str, int], *weights: onnx.TensorProto
) -> bytes:
    """An ONNX file of single values and rows of four; numbers are element types."""
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(name, kind, [1, 4]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, kind, [1, 4]) for name, kind in outputs.items()],
        list(weights),
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()


F32, I64, U8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8


def test_an_onnx_file_becomes_a_bundle_with_this_computers_answer(tmp_path: Path) -> None:
    path = written(tmp_path / "net.onnx", onnx_model(8))
    bundle = bare_model(path, runtime="onnxruntime", threads=2).bundle(7)
    assert read(bundle.folder).digest == bundle.digest
    assert (bundle.manifest.name, bundle.manifest.sequence, bundle.manifest.model.threads) == ("net", 7, 2)
    golden = [np.load(bundle.folder / f"golden_{part}.npy") for part in ("input", "output")]
    np.testing.assert_allclose(golden[1], np.maximum(golden[0] * 0.5, 0), rtol=1e-6)
    assert golden[0].std() > 0.1


def test_a_tflite_file_becomes_a_bundle(tmp_path: Path) -> None:
    path = written(tmp_path / "net.tflite", tflite_add())
    bundle = bare_model(path, runtime="tflite", threads=1, name="ours").bundle(1)
    golden = [np.load(bundle.folder / f"golden_{part}.npy") for part in ("input", "output")]
    np.testing.assert_allclose(golden[1], golden[0] + 1)
    assert bundle.manifest.model.runtime == "tflite"
    assert bundle.manifest.name == "ours"


def test_the_same_file_and_number_make_the_same_bundle(tmp_path: Path) -> None:
    path = written(tmp_path / "net.onnx", onnx_model())
    first, second = (bare_model(path, runtime="onnxruntime", threads=1).bundle(3) for _ in range(2))
    assert first.digest == second.digest


def test_a_file_of_any_name_becomes_a_bundle(tmp_path: Path) -> None:
    path = written(tmp_path / ".my net (v2) – é.onnx", onnx_model())
    bundle = bare_model(path, runtime="onnxruntime", threads=1).bundle(1)
    assert bundle.manifest.name == ".my net (v2) – é"
    assert read(bundle.folder).digest == bundle.digest


def test_indices_and_bytes_are_fed_as_such(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    for kind, values in ((I64, {0, 1}), (U8, None)):
        path = written(tmp_path / f"{kind}.onnx", graph(nodes, {"x": kind}, {"y": kind}))
        model = bare_model(path, runtime="onnxruntime", threads=1)
        assert values is None or set(model.golden_input.flat) <= values
        assert (model.tolerance.rtol, model.tolerance.atol) == (0.0, 1.0)


def test_the_tolerance_may_be_said(tmp_path: Path) -> None:
    path = written(tmp_path / "net.onnx", onnx_model())
    model = bare_model(path, runtime="onnxruntime", threads=1, tolerance=0.05)
    assert (model.tolerance.rtol, model.tolerance.atol) == (0.05, 0.05)


def test_a_model_with_several_inputs_or_outputs_is_refused_by_name(tmp_path: Path) -> None:
    add = [helper.make_node("Add", ["left", "right"], ["y"])]
    path = written(tmp_path / "two.onnx", graph(add, {"left": F32, "right": F32}, {"y": F32}))
    with pytest.raises(InputError, match=r"has 2 inputs \(left, right\)"):
        bare_model(path, runtime="onnxruntime", threads=1)
    split = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["z"])]
    path = written(tmp_path / "out.onnx", graph(split, {"x": F32}, {"y": F32, "z": F32}))
    with pytest.raises(InputError, match=r"has 2 outputs \(y, z\)"):
        bare_model(path, runtime="onnxruntime", threads=1)


def test_an_answer_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    nothing = numpy_helper.from_array(np.zeros((1, 4), np.float32), "nothing")
    path = written(
        tmp_path / "net.onnx",
        graph([helper.make_node("Div", ["x", "nothing"], ["y"])], {"x": F32}, {"y": F32}, nothing),
    )
    with pytest.raises(ModelError, match="not finite"):
        bare_model(path, runtime="onnxruntime", threads=1)


def test_weights_in_another_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    model = onnx.load_from_string(onnx_model(64))
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ModelError, match="weights are in another file"):
        bare_model(path, runtime="onnxruntime", threads=1)


@pytest.mark.parametrize("runtime", ["onnxruntime", "tflite"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, runtime: str) -> None:
    with pytest.raises(ModelError, match="not a readable"):
        bare_model(written(tmp_path / "x", b"no model at all"), runtime=runtime, threads=1)


def test_what_runs_a_file(tmp_path: Path) -> None:
    for name, runtime in (("a.onnx", "onnxruntime"), ("a.TFLITE", "tflite")):
        assert runtime_of(written(tmp_path / name, b"x")) == runtime
    assert runtime_of(written(tmp_path / "a.bin", b"x"), "tflite") == "tflite"
    for name, runtime, words in (
        ("none.onnx", None, "no such file"),
        (".", None, "is a folder"),
        ("a.bin", None, "ends in neither .onnx nor .tflite"),
        ("a.onnx", "tflite", "is run by onnxruntime, not by tflite"),
    ):
        with pytest.raises(InputError, match=words):
            runtime_of(tmp_path / name, runtime)
    with pytest.raises(InputError, match="is empty"):
        runtime_of(written(tmp_path / "b.onnx", b""))


def test_a_bundle_is_found_by_its_folder_and_by_its_run(tmp_path: Path) -> None:
    path = written(tmp_path / "net.onnx", onnx_model())
    made = bare_model(path, runtime="onnxruntime", threads=1).bundle(1)
    assert find_bundle(str(made.folder)).digest == made.digest
    run = Store().create({})
    made.folder.rename(run.folder / "bundle")
    run.close()
    for what in ("latest", run.id, str(run.folder)):
        assert find_bundle(what).digest == made.digest


def test_what_is_no_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a folder nor a run"):
        find_bundle("nothing")
    with pytest.raises(InputError, match=r"holds no readable manifest\.json"):
        find_bundle(str(tmp_path))
    run = Store().create({})
    run.close()
    with pytest.raises(RunError, match="made no bundle"):
        find_bundle("latest")


def test_a_file_whose_bytes_changed_is_no_bundle(tmp_path: Path) -> None:
    path = written(tmp_path / "net.onnx", onnx_model())
    made = bare_model(path, runtime="onnxruntime", threads=1).bundle(1)
    (made.folder / "net.onnx").write_bytes(onnx_model(8))
    with pytest.raises(InputError, match="not the file that the manifest names"):
        find_bundle(str(made.folder))


def test_which_words_mean_a_bare_file(tmp_path: Path) -> None:
    assert is_model_file("missing.onnx")
    assert is_model_file(str(written(tmp_path / "model.bin", b"x")))
    assert not is_model_file(str(tmp_path))
    assert not is_model_file("latest")
