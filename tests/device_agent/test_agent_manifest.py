import copy
import json

import pytest

from device_agent import manifest
from device_agent.errors import RequestError

GOOD = {
    "format": 1,
    "name": "digits",
    "model": {"file": "model.onnx", "runtime": "onnxruntime", "threads": 1},
    "files": {name: {"sha256": "0" * 64, "size": 3} for name in ("model.onnx", "in.npy", "out.npy")},
    "golden": {"inputs": ["in.npy"], "outputs": ["out.npy"], "tolerance": {"rtol": 1e-3, "atol": 1e-3}},
}


def changed(path, value):
    document = copy.deepcopy(GOOD)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(document).encode()


def test_a_good_manifest_is_read():
    read = manifest.parse(json.dumps(GOOD).encode())
    assert read.model_file == "model.onnx"
    assert read.files["in.npy"] == manifest.BundleFile("0" * 64, 3)
    assert (read.rtol, read.threads) == (1e-3, 1)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\0b", "x" * 200, "manifest.json", ".hidden"]
)
def test_a_file_name_that_is_not_plain_is_refused(name):
    files = {**GOOD["files"], name: {"sha256": "0" * 64, "size": 1}}
    with pytest.raises(RequestError) as caught:
        manifest.parse(changed(["files"], files))
    assert caught.value.code == "bad_manifest"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], 2),
        (["files"], {}),
        (["files"], []),
        (["files", "in.npy"], "text"),
        (["files", "in.npy", "sha256"], "ABC"),
        (["files", "in.npy", "sha256"], None),
        (["files", "in.npy", "size"], -1),
        (["files", "in.npy", "size"], True),
        (["files", "in.npy", "size"], 1.5),
        (["model"], None),
        (["model", "file"], "other.onnx"),
        (["model", "threads"], 0),
        (["model", "runtime"], 7),
        (["golden", "inputs"], "in.npy"),
        (["golden", "outputs"], []),
        (["golden", "outputs"], ["nowhere.npy"]),
        (["golden", "outputs"], [["out.npy"]]),
        (["golden", "tolerance", "rtol"], -1),
        (["golden", "tolerance", "atol"], float("nan")),
        (["golden", "tolerance"], 1e-3),
    ],
)
def test_a_part_of_the_wrong_kind_is_refused(path, value):
    with pytest.raises(RequestError) as caught:
        manifest.parse(changed(path, value))
    assert caught.value.code == "bad_manifest"


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"\xff", b"{}", b"[" * 100_000, b" " * (manifest.MAX_BYTES + 1)]
)
def test_what_is_no_manifest_at_all_is_refused(data):
    with pytest.raises(RequestError) as caught:
        manifest.parse(data)
    assert caught.value.code == "bad_manifest"
