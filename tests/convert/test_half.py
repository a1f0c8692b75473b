"""Weights stored as float16: half the file, the same answers but for rounding, nothing more to compute."""

from __future__ import annotations

import copy
import resource
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from pipeline.bundle import io_specs
from pipeline.convert import HALF_MIN_SQNR_DB, converter, store_half, validate
from pipeline.convert.half import SMALLEST
from pipeline.convert.tflite import packed, unpacked
from pipeline.data.preprocess import apply
from pipeline.errors import InputError, ModelError, StorageError
from pipeline.host_runtime import runner
from pipeline.recover.score import accuracy
from pipeline.search import EMPTY, LayerShape, build_layer_model
from pipeline.task import load_task

RUNTIMES = ("onnxruntime", "tflite")
LAYERS = [
    LayerShape("conv2d", 12, 20, (3, 3), (1, 1), (1, 1), (1, 1), 1, (9, 9), True, "relu"),
    LayerShape("conv2d", 12, 20, (3, 3), (2, 2), (1, 1), (1, 1), 1, (8, 8), True, None),
    LayerShape("conv2d", 64, 64, (3, 3), (1, 1), (1, 1), (1, 1), 64, (8, 8), True, "relu6"),
    LayerShape("linear", 64, 300, bias=True),
]


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor]:
    """A network that knows digits (trained for seconds), and those of them that it has not seen."""
    task = load_task("digits")
    splits = task.load_data()
    inputs, targets = apply(task.preprocess, splits.train.inputs), splits.train.targets
    torch.manual_seed(0)
    model = task.build_model().train()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for chosen in torch.split(torch.randint(len(targets), (4000,)), 64):
        optimiser.zero_grad()
        functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
        optimiser.step()
    assert accuracy(model, splits.test, task.preprocess) > 90
    return model.eval(), apply(task.preprocess, splits.test.inputs)


@pytest.fixture(scope="module", params=RUNTIMES)
def files(
    request: pytest.FixtureRequest, digits: tuple[nn.Module, Tensor], tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Path, Path]:
    """A runtime, the network's file, and the same with float16 weights."""
    runtime, folder = request.param, tmp_path_factory.mktemp(request.param)
    if runtime == "tflite":
        pytest.importorskip("litert_torch", reason="the tflite extra is not installed")
    maker = converter(runtime)
    plain, half = (folder / f"{name}{maker.suffix}" for name in ("plain", "half"))
    maker.convert(digits[0], digits[1][:1], plain)
    half.write_bytes(plain.read_bytes())
    store_half(half, runtime)
    return runtime, plain, half


def test_the_file_is_about_half_as_large(files: tuple[str, Path, Path]) -> None:
    _, plain, half = files
    assert half.stat().st_size < 0.52 * plain.stat().st_size


def test_digits_are_told_apart_as_before(
    files: tuple[str, Path, Path], digits: tuple[nn.Module, Tensor]
) -> None:
    runtime, plain, half = files
    model, images = digits
    agreement = validate(half, runtime, model, images, HALF_MIN_SQNR_DB)
    assert agreement.same_class == 1.0
    assert HALF_MIN_SQNR_DB + 10 < agreement.sqnr_db < 90  # it is rounded: a float32 file has 130
    assert validate(plain, runtime, model, images).sqnr_db > 110


def test_inputs_and_outputs_are_what_they_were(files: tuple[str, Path, Path]) -> None:
    runtime, plain, half = files
    assert io_specs(half, runtime) == io_specs(plain, runtime)


def test_a_model_whose_weights_moved_by_one_percent_is_still_told_apart(
    files: tuple[str, Path, Path], digits: tuple[nn.Module, Tensor]
) -> None:
    runtime, _, half = files
    other = copy.deepcopy(digits[0])
    with torch.no_grad():
        other.linear.weight.mul_(1.01)
    with pytest.raises(ModelError, match=rf"at least {HALF_MIN_SQNR_DB:.0f} expected"):
        validate(half, runtime, other, digits[1], HALF_MIN_SQNR_DB)


def test_a_second_time_changes_nothing_and_the_same_file_gives_the_same_bytes(
    files: tuple[str, Path, Path], tmp_path: Path
) -> None:
    runtime, plain, half = files
    again = tmp_path / half.name
    again.write_bytes(plain.read_bytes())
    for _ in range(2):
        store_half(again, runtime)
        assert again.read_bytes() == half.read_bytes()


def test_the_runtime_has_the_same_operators_to_compute(files: tuple[str, Path, Path], tmp_path: Path) -> None:
    runtime, plain, half = files
    operators = {"onnxruntime": _operators_after_loading, "tflite": _delegated}[runtime]
    assert operators(half, tmp_path) == operators(plain, tmp_path)


def _operators_after_loading(path: Path, folder: Path) -> Counter[str]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "loaded.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "loaded.onnx").graph.node)


def _delegated(path: Path, _: Path) -> tuple[int, set[int]]:
    """Return into how many parts XNNPACK takes the graph, and which float16 weights it leaves to others."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    parts = [each for each in interpreter._get_ops_details() if each["op_name"] == "DELEGATE"]
    weights = {each["index"] for each in interpreter.get_tensor_details() if each["dtype"] == np.float16}
    return len(parts), weights.difference(*(part["inputs"].tolist() for part in parts))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("shape", LAYERS, ids=lambda shape: shape.key)
def test_a_layer_alone_answers_as_before_but_for_rounding(
    shape: LayerShape, runtime: str, tmp_path: Path
) -> None:
    plain, half = tmp_path / "plain", tmp_path / "half"
    for path in (plain, half):
        build_layer_model(shape, runtime, path)
    store_half(half, runtime)
    assert half.stat().st_size < plain.stat().st_size
    image = np.random.default_rng(0).standard_normal(io_specs(plain, runtime)[0][0].shape).astype(np.float32)
    wanted, found = (runner(path, runtime)(image) for path in (plain, half))
    assert not np.array_equal(found, wanted)
    np.testing.assert_allclose(found, wanted, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_without_weights_worth_it_stays_as_it_is(runtime: str, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    build_layer_model(EMPTY, runtime, path)
    before = path.read_bytes()
    store_half(path, runtime)
    assert path.read_bytes() == before


def test_a_constant_that_two_tensors_share_is_stored_once(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    build_layer_model(LayerShape("linear", 64, 64, bias=True), "tflite", path)
    path.write_bytes(_twice(path.read_bytes()))
    image, size = np.random.default_rng(0).standard_normal((1, 64)).astype(np.float32), path.stat().st_size
    before = runner(path, "tflite")(image)
    store_half(path, "tflite")
    np.testing.assert_allclose(runner(path, "tflite")(image), before, rtol=5e-3, atol=5e-3)
    assert path.stat().st_size < size - 2 * 64 * 64 + 1000


def _twice(data: bytes) -> bytes:
    """Return the file of one linear layer with the layer twice in a row, of different tensors over the same numbers."""
    model = unpacked(data)
    graph = model.subgraphs[0]
    source, result = graph.operators[0], graph.outputs[0]
    places = [*source.inputs, result]
    graph.tensors += [copy.copy(graph.tensors[index]) for index in places]
    second = copy.copy(source)
    _, weight, bias, output = range(len(graph.tensors) - len(places), len(graph.tensors))
    second.inputs, second.outputs, graph.outputs = [result, weight, bias], [output], [output]
    graph.operators.append(second)
    return packed(model)


def _stored(values: Tensor, path: Path) -> dict[int, int]:
    """Store a file of two linear layers, the first with `values` as weights; return each weight's type by its rows."""
    model = nn.Sequential(nn.Linear(values.shape[1], values.shape[0]), nn.Linear(values.shape[0], 50))
    with torch.no_grad():
        model[0].weight.copy_(values)
    converter("onnxruntime").convert(model, torch.zeros(1, values.shape[1]), path)
    store_half(path, "onnxruntime")
    graph = onnx.load(path).graph
    return {tensor.dims[0]: tensor.data_type for tensor in graph.initializer if len(tensor.dims) == 2}


NORMAL = torch.randn(40, 30, generator=torch.Generator().manual_seed(0))
ONE_LARGE = NORMAL.clone()
ONE_LARGE[3, 4] = 70_000.0
ONE_SMALL = NORMAL.clone()
ONE_SMALL[3, 4] = 1e-9


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        (NORMAL, False),
        (ONE_SMALL, False),  # 1e-9 becomes 0, which nothing notices beside the others
        (torch.zeros(40, 30), False),
        (NORMAL * 1e4, False),
        (ONE_LARGE, True),  # would become infinity
        (NORMAL * 1e-6, True),  # fewer and fewer digits below 6e-5, and none at all below 6e-8
        (NORMAL * 1e-9, True),
        (NORMAL[:, : (SMALLEST - 1) // 40], True),
    ],
)
def test_numbers_that_float16_cannot_hold_stay_in_float32(values: Tensor, kept: bool, tmp_path: Path) -> None:
    types = _stored(values, tmp_path / "net.onnx")
    assert types == {
        40: onnx.TensorProto.FLOAT if kept else onnx.TensorProto.FLOAT16,
        50: onnx.TensorProto.FLOAT16,
    }


def test_every_number_is_the_nearest_that_float16_has(tmp_path: Path) -> None:
    _stored(NORMAL, tmp_path / "net.onnx")
    stored = next(each for each in onnx.load(tmp_path / "net.onnx").graph.initializer if each.dims[0] == 40)
    np.testing.assert_array_equal(numpy_helper.to_array(stored), NORMAL.half().numpy())


def test_a_full_disk_is_a_storage_error_and_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "layer"
    build_layer_model(LAYERS[0], "onnxruntime", path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(StorageError, match="no space left"):
            store_half(path, "onnxruntime")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before]


def test_an_unknown_runtime_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="known runtimes: onnxruntime, tflite"):
        store_half(tmp_path / "net", "ncnn")
