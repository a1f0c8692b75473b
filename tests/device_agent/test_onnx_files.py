import random
from pathlib import Path

import onnx
import pytest
from agent_process import onnx_model
from onnx import TensorProto, helper

from device_agent.errors import RequestError
from device_agent.work import onnx_files


def outside(name, location="weights.bin", extra=()):
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in (("offset", "0"), ("location", location), *extra):
        tensor.external_data.append(onnx.StringStringEntryProto(key=key, value=text))
    return tensor


def graph(nodes=(), initializers=(), sparse=()):
    return helper.make_graph(list(nodes), "g", [], [], list(initializers), sparse_initializer=list(sparse))


def model(main, **options):
    return helper.make_model(main, opset_imports=[helper.make_opsetid("", 17)], ir_version=9, **options)


def in_attribute(kind):
    """A tensor in an attribute of a node in a branch of a branch."""
    attributes = {
        "tensor": {"value": outside("c")},
        "tensors": {"values": [outside("c")]},
        "sparse": {"sparse_value": onnx.SparseTensorProto(values=outside("c"))},
        "graphs": {"branches": [graph(initializers=[outside("c")])]},
    }
    inner = graph([helper.make_node("Constant", [], ["y"], **attributes[kind])])
    return model(graph([helper.make_node("If", ["x"], ["y"], then_branch=inner)]))


def in_function():
    node = helper.make_node("Constant", [], ["y"], value=outside("c"))
    function = helper.make_function("d", "f", [], ["y"], [node], [helper.make_opsetid("", 17)])
    return model(graph(), functions=[function])


def in_training():
    found = model(graph())
    found.training_info.add().initialization.initializer.append(outside("t"))
    return found


PLACES = {
    "initializer": lambda: model(graph(initializers=[outside("w")])),
    "sparse": lambda: model(graph(sparse=[onnx.SparseTensorProto(values=outside("w"))])),
    "sparse-indices": lambda: model(graph(sparse=[onnx.SparseTensorProto(indices=outside("w"))])),
    **{
        f"attribute-{kind}": (lambda kind=kind: in_attribute(kind))
        for kind in ("tensor", "tensors", "sparse", "graphs")
    },
    "function": in_function,
    "training": in_training,
}


def saved(tmp_path, data, name="model.onnx"):
    path = tmp_path / name
    path.write_bytes(data if isinstance(data, bytes) else data.SerializeToString())
    return path


@pytest.mark.parametrize("place", PLACES)
def test_a_location_is_found_wherever_a_tensor_can_be(tmp_path, place):
    assert onnx_files.locations(saved(tmp_path, PLACES[place]())) == {"weights.bin"}


def test_a_model_with_its_weights_inside_names_no_file(tmp_path):
    path = saved(tmp_path, onnx_model())
    assert onnx_files.locations(path) == set()
    onnx_files.check(path)


def test_models_as_exporters_write_them_name_no_file():
    folder = Path(onnx.__file__).parent / "backend/test/data"
    paths = sorted(folder.rglob("*.onnx"))[::4]
    assert len(paths) > 20
    for path in paths:
        if path.stat().st_size:
            assert onnx_files.locations(path) == set(), path


def test_a_file_of_the_bundle_may_be_named_and_no_other(tmp_path):
    path = saved(tmp_path, model(graph(initializers=[outside("a"), outside("b", "more.bin")])))
    onnx_files.check(path, ["model.onnx", "weights.bin", "more.bin"])
    for allowed in ([], ["weights.bin"], ["more.bin"]):
        with pytest.raises(RequestError, match="not among its files") as caught:
            onnx_files.check(path, allowed)
        assert caught.value.code == "model_refused"


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../x", "a/b", "..", "a\\b", "", "weights.bin\0", "*/_ORT_MEM_ADDR_/*", "ü/.."],
)
def test_what_is_no_plain_name_is_refused_even_if_it_is_allowed(tmp_path, location):
    path = saved(tmp_path, model(graph(initializers=[outside("w", location)])))
    with pytest.raises(RequestError):
        onnx_files.check(path, ["weights.bin"])
    if "/" in location or "\\" in location:
        with pytest.raises(RequestError):
            onnx_files.check(path, [location])


def test_a_second_location_does_not_hide_the_first(tmp_path):
    tensor = outside("w", "/etc/passwd", extra=[("location", "weights.bin")])
    with pytest.raises(RequestError, match="/etc/passwd"):
        onnx_files.check(saved(tmp_path, model(graph(initializers=[tensor]))), ["weights.bin"])


def test_a_field_that_is_there_twice_is_walked_twice(tmp_path):
    """Protobuf merges repeated messages, so a second graph after an innocent one counts, too."""
    hidden = model(graph(initializers=[outside("w", "/etc/passwd")])).SerializeToString()
    with pytest.raises(RequestError, match="/etc/passwd"):
        onnx_files.check(saved(tmp_path, onnx_model() + hidden))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"no model at all", "no ONNX model"),
        (b"\x3a\xff\xff\xff\xff\x0f", "longer than the whole"),
        (b"\x08" + b"\xff" * 11, "more than ten bytes"),
        (b"\x08", "inside a number"),
        (b"\x0d\x00", "inside a number"),
        (b"\x00\x00", "there is no field 0"),
        (b"\x0b\x0c", "no field has the kind 3"),
    ],
)
def test_bytes_that_are_no_protobuf_are_refused(tmp_path, data, why):
    with pytest.raises(RequestError, match=why) as caught:
        onnx_files.check(saved(tmp_path, data))
    assert caught.value.code == "model_refused"


def test_a_truncated_model_is_refused_or_names_nothing(tmp_path):
    data = onnx_model()
    for length in range(len(data)):
        path = saved(tmp_path, data[:length])
        try:
            assert onnx_files.locations(path) == set()
        except ValueError:
            continue


def test_random_bytes_raise_nothing_but_the_one_error(tmp_path):
    chance = random.Random(3)
    for _ in range(300):
        path = saved(tmp_path, chance.randbytes(chance.randrange(1, 200)))
        try:
            onnx_files.check(path)
        except RequestError as error:
            assert error.code == "model_refused"  # noqa: PT017


def test_more_parts_than_any_model_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "MOST_FIELDS", 1000)
    with pytest.raises(RequestError, match="more than 1000 parts"):
        onnx_files.check(saved(tmp_path, b"\x3a\x80\x20" + b"\x0a\x00" * 2048))


def test_a_file_of_the_runtime_s_own_kind_is_refused(tmp_path):
    with pytest.raises(RequestError, match=r"\.ort"):
        onnx_files.check(saved(tmp_path, onnx_model(), "model.ort"))
