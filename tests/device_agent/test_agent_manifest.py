import copy
import json

import pytest

from device_agent.errors import RequestError
from device_agent.updates import manifest

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
    assert (read.kind, read.name, read.sequence) == ("model", "digits", 0)
    assert read.files["in.npy"] == manifest.BundleFile("0" * 64, 3)
    assert (read.model.file, read.model.rtol, read.model.threads) == ("model.onnx", 1e-3, 1)
    assert (read.model.expected_p50_ms, read.model.margin) == (None, 0.5)


def agent_manifest(*names):
    files = {name: {"sha256": "0" * 64, "size": 3} for name in names}
    return json.dumps(
        {"format": 1, "kind": "agent", "name": "agent", "agent": {"version": "0.3.0"}, "files": files}
    ).encode()


def test_the_files_of_an_agent_lie_in_folders():
    read = manifest.parse(agent_manifest("device_agent/sensors/thermal.py", "device_agent/wire.py"))
    assert (read.kind, read.agent_version, read.model) == ("agent", "0.3.0", None)


@pytest.mark.parametrize(
    "names",
    [
        ("a/../b",),
        ("/a/b",),
        ("a//b",),
        ("a/b/",),
        ("a/.b",),
        ("a", "a/b"),
        ("/".join("abcdefghi"),),
        ("manifest.json",),
    ],
)
def test_a_path_that_leaves_the_folder_or_is_no_path_is_refused(names):
    with pytest.raises(RequestError) as caught:
        manifest.parse(agent_manifest(*names))
    assert caught.value.code == "bad_manifest"


def test_a_name_that_comes_twice_is_refused():
    text = json.dumps(GOOD).replace('"format": 1', '"format": 1, "name": "other"')
    with pytest.raises(RequestError, match="twice"):
        manifest.parse(text.encode())


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
        (["kind"], "agent"),
        (["kind"], "other"),
        (["name"], ""),
        (["sequence"], -1),
        (["sequence"], 2**63),
        (["sequence"], 1.0),
        (["model", "expected_p50_ms"], "fast"),
        (["model", "margin"], -0.1),
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
