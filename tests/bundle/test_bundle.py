"""Bundles: the same content has the same digest, and nothing that was changed is read back."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.bundle import Bundle, TensorSpec, build, read
from pipeline.data.preprocess import Preprocess
from pipeline.errors import InputError, ModelError

PREPROCESS = Preprocess(scale=1 / 255, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2))


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    """A file that doubles its input, float32 (1, 4)."""
    graph = helper.make_graph(
        [helper.make_node("Add", ["input", "input"], ["output"])],
        "double",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, [1, 4])],
    )
    path = tmp_path / "made" / "model.onnx"
    path.parent.mkdir()
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def bundle_of(model_file: Path, folder: Path, **changes: Any) -> Bundle:
    given: dict[str, Any] = {
        "model_file": model_file,
        "name": "digits",
        "run": "r1",
        "runtime": "onnxruntime",
        "threads": 1,
        "preprocess": PREPROCESS,
        "labels": ("zéro", "un", "deux", "trois"),
        "golden_input": np.array([[1, 2, 3, 4]], dtype=np.float32),
        "golden_output": np.array([[2, 4, 6, 8]], dtype=np.float32),
    }
    return build(folder, **(given | changes))


def test_what_was_built_is_read_back(model_file: Path, tmp_path: Path) -> None:
    built = bundle_of(model_file, tmp_path / "bundle")
    assert read(tmp_path / "bundle") == built
    assert built.manifest.io.inputs == (TensorSpec("input", (1, 4), "float32"),)
    assert built.manifest.io.preprocess == PREPROCESS
    assert np.load(tmp_path / "bundle" / "golden_output.npy", allow_pickle=False).tolist() == [[2, 4, 6, 8]]
    assert sorted(path.name for path in built.files) == sorted(path.name for path in built.folder.iterdir())


def test_the_digest_is_that_of_the_manifest_and_names_every_file(model_file: Path, tmp_path: Path) -> None:
    built = bundle_of(model_file, tmp_path / "bundle")
    data = (tmp_path / "bundle" / "manifest.json").read_bytes()
    assert built.digest == hashlib.sha256(data).hexdigest()
    files = json.loads(data)["files"]
    assert sorted(files) == ["golden_input.npy", "golden_output.npy", "model.onnx"]
    for name, entry in files.items():
        content = (tmp_path / "bundle" / name).read_bytes()
        assert entry == {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}


def test_the_same_content_has_the_same_digest_wherever_and_whenever_it_is_built(
    model_file: Path, tmp_path: Path
) -> None:
    first = bundle_of(model_file, tmp_path / "a")
    assert bundle_of(model_file, tmp_path / "b").digest == first.digest
    assert bundle_of(model_file, tmp_path / "a").digest == first.digest
    assert bundle_of(model_file, tmp_path / "c", threads=2).digest != first.digest


@pytest.mark.parametrize("name", ["model.onnx", "golden_input.npy", "golden_output.npy"])
def test_a_changed_or_missing_file_is_named(model_file: Path, tmp_path: Path, name: str) -> None:
    bundle_of(model_file, tmp_path / "bundle")
    victim = tmp_path / "bundle" / name
    data = bytearray(victim.read_bytes())
    data[-1] ^= 1
    victim.write_bytes(data)
    with pytest.raises(InputError, match=f"{name} is not the file that the manifest names"):
        read(tmp_path / "bundle")
    victim.unlink()
    with pytest.raises(InputError, match=f"{name} is missing"):
        read(tmp_path / "bundle")


EVIL = {"sha256": "0" * 64, "size": 0}


@pytest.mark.parametrize(
    ("damage", "where"),
    [
        (lambda m: m | {"format": 2}, "format"),
        (lambda m: m | {"surprise": 1}, "surprise"),
        (lambda m: m | {"files": m["files"] | {"../evil": EVIL}}, "files"),
        (lambda m: m | {"files": m["files"] | {"..": EVIL}}, "files"),
        (lambda m: m | {"files": m["files"] | {"a/b": EVIL}}, "files"),
        (lambda m: m | {"files": m["files"] | {"manifest.json": EVIL}}, "names itself"),
        (lambda m: m | {"model": m["model"] | {"file": "other.onnx"}}, "other.onnx"),
        (lambda m: m | {"golden": m["golden"] | {"inputs": ["gone.npy"]}}, "gone.npy"),
        (lambda m: {key: value for key, value in m.items() if key != "io"}, "io"),
        (lambda m: [m], "manifest"),
    ],
)
def test_a_manifest_that_breaks_the_rules_is_refused(
    model_file: Path, tmp_path: Path, damage: Any, where: str
) -> None:
    bundle_of(model_file, tmp_path / "bundle")
    path = tmp_path / "bundle" / "manifest.json"
    path.write_text(json.dumps(damage(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    with pytest.raises(InputError, match=where):
        read(tmp_path / "bundle")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_folder_without_a_readable_manifest_is_no_bundle(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(InputError, match=r"holds no readable manifest\.json"):
        read(tmp_path)
    (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(InputError, match=r"holds no readable manifest\.json"):
        read(tmp_path)


def test_golden_arrays_must_fit_the_model(model_file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"golden input is float32\[1, 3\], the model's input is float32\[1, 4\]"
    ):
        bundle_of(model_file, tmp_path / "b", golden_input=np.zeros((1, 3), dtype=np.float32))
    with pytest.raises(InputError, match="golden output is float64"):
        bundle_of(model_file, tmp_path / "b", golden_output=np.zeros((1, 4)))
    assert not (tmp_path / "b").exists()


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"junk")
    with pytest.raises(ModelError, match="not a readable ONNX file"):
        bundle_of(tmp_path / "model.onnx", tmp_path / "bundle")


def test_a_model_named_like_a_part_of_the_bundle_is_refused(model_file: Path, tmp_path: Path) -> None:
    taken = model_file.rename(model_file.with_name("manifest.json"))
    with pytest.raises(InputError, match="rename it"):
        bundle_of(taken, tmp_path / "bundle")


def test_a_build_that_died_before_its_manifest_is_no_bundle(model_file: Path, tmp_path: Path) -> None:
    bundle_of(model_file, tmp_path / "bundle")
    (tmp_path / "bundle" / "manifest.json").unlink()
    with pytest.raises(InputError, match="is it a bundle"):
        read(tmp_path / "bundle")
