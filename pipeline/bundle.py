"""The artefact that travels: a folder with the model's file, a golden input and output, and a manifest.

    bundle = build(folder, model_file=…, …)      write it
    bundle = read(folder)                        read it back, every digest verified

The manifest names every other file with its digest, so the SHA-256 of the manifest's bytes stands for the
whole bundle. It holds no times and no host names: the same content has the same digest.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from pipeline import __version__
from pipeline.data.preprocess import Preprocess
from pipeline.errors import InputError, ModelError
from pipeline.files import sha256, write_atomically

MANIFEST = "manifest.json"
GOLDEN_INPUT = "golden_input.npy"
GOLDEN_OUTPUT = "golden_output.npy"
MAX_MANIFEST_BYTES = 1_000_000

_STRICT = ConfigDict(extra="forbid", allow_inf_nan=False)
# A plain file name: no separators, does not start with a dot.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: its SHA-256 in hexadecimal and its size in bytes."""

    __pydantic_config__ = _STRICT
    sha256: Digest
    size: Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class ModelEntry:
    """Which file the runtime loads, with how many threads, and how long an inference takes on the board.

    A board refuses to activate the model if it takes longer than `expected_p50_ms` by more than the share `margin`.
    """

    __pydantic_config__ = _STRICT
    file: FileName
    runtime: Literal["onnxruntime", "tflite"]
    threads: Annotated[int, Field(ge=1)]
    expected_p50_ms: Annotated[float, Field(ge=0)] | None = None
    margin: Annotated[float, Field(ge=0)] = 0.5


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of the model: its name in the file, its shape, and numpy's name of its type."""

    __pydantic_config__ = _STRICT
    name: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class ModelIo:
    """What an application must feed and what it gets."""

    __pydantic_config__ = _STRICT
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    labels: tuple[str, ...] | None


@dataclass(frozen=True)
class Tolerance:
    """How far a board's output may be from the golden one: |a − b| ≤ atol + rtol·|b|, as in numpy."""

    __pydantic_config__ = _STRICT
    rtol: float = 1e-3
    atol: float = 1e-3


@dataclass(frozen=True)
class Golden:
    """The recorded question and answer that a board must reproduce before the model is activated there."""

    __pydantic_config__ = _STRICT
    inputs: tuple[FileName, ...] = (GOLDEN_INPUT,)
    outputs: tuple[FileName, ...] = (GOLDEN_OUTPUT,)
    tolerance: Tolerance = field(default_factory=Tolerance)


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`."""

    __pydantic_config__ = _STRICT
    name: str
    run: str
    model: ModelEntry
    files: Mapping[FileName, FileEntry]
    io: ModelIo
    golden: Golden
    created_by: str
    sequence: Annotated[int, Field(ge=0, lt=2**63)] = 0
    kind: Literal["model"] = "model"
    format: Literal[1] = 1

    def to_bytes(self) -> bytes:
        """Return the manifest as UTF-8 JSON with sorted keys; the same manifest gives the same bytes."""
        content = _MANIFESTS.dump_python(self, mode="json")
        return (json.dumps(content, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


@dataclass(frozen=True)
class Bundle:
    """A bundle on this host: `digest` is its manifest's SHA-256, `files` are all its files, manifest too."""

    digest: str
    folder: Path
    manifest: Manifest
    files: tuple[Path, ...]


_MANIFESTS = TypeAdapter(Manifest)


def build(
    folder: Path,
    *,
    model_file: Path,
    name: str,
    run: str,
    runtime: str,
    threads: int,
    preprocess: Preprocess,
    labels: Sequence[str] | None,
    golden_input: NDArray[np.float32],
    golden_output: NDArray[np.float32],
    tolerance: Tolerance = Tolerance(),
    sequence: int = 0,
    expected_p50_ms: float | None = None,
) -> Bundle:
    """Write a bundle into `folder`, its manifest last, so that a folder with a manifest is a whole bundle.

    Args:
        folder: made if it is missing; files of an earlier build are replaced.
        model_file: the converted model; its name is kept.
        name: the task's name.
        run: id of the run that made the model.
        runtime: "onnxruntime" or "tflite".
        threads: threads to run it with.
        preprocess: what turns raw values into the model's input.
        labels: names of the classes, if known.
        golden_input: one preprocessed input, shape as the model takes it, batch of one included.
        golden_output: the PyTorch model's answer to it.
        tolerance: how far a board's answer may be from it.
        sequence: greater than that of every bundle before it; a board refuses what is older than what it has seen.
        expected_p50_ms: median latency that was measured on the board; `None`: nothing is expected.

    Raises:
        InputError: the golden arrays do not fit the model's file, or the file's name is not a plain one.
        ModelError: the model's file cannot be read.
        StorageError: the disk is full or not writable.
    """
    inputs, outputs = io_specs(model_file, runtime)
    _require_fit(golden_input, inputs, "input")
    _require_fit(golden_output, outputs, "output")
    content: dict[str, object] = {
        "created_by": f"edge-pipeline {__version__}",
        "name": name,
        "run": run,
        "sequence": sequence,
        "model": {
            "file": model_file.name,
            "runtime": runtime,
            "threads": threads,
            "expected_p50_ms": expected_p50_ms,
        },
        "files": _write_files(folder, model_file, golden_input, golden_output),
        "io": ModelIo(inputs, outputs, preprocess, None if labels is None else tuple(labels)),
        "golden": Golden(tolerance=tolerance),
    }
    manifest = _checked(content, folder)
    data = manifest.to_bytes()
    write_atomically(folder / MANIFEST, partial(_write, data))
    return _bundle(folder, manifest, data)


def read(folder: Path) -> Bundle:
    """Read a bundle back and verify every file's size and digest.

    Raises:
        InputError: it is not a bundle, its manifest is not valid, or a file is missing or was changed.
    """
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise InputError(f"{path} is too large for a manifest")
        data = path.read_bytes()
        content = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{folder} holds no readable {MANIFEST}: {error}", hint="is it a bundle?") from error
    manifest = _checked(content, folder)
    for name, entry in manifest.files.items():
        _verify(folder / name, entry)
    return _bundle(folder, manifest, data)


def io_specs(path: Path, runtime: str) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and the outputs that a model's file declares.

    Raises:
        ModelError: the file cannot be read, or has dimensions that are not fixed.
        InputError: the runtime is unknown, or the package that reads its files is not installed.
    """
    readers = {"onnxruntime": _onnx_specs, "tflite": _tflite_specs}
    if runtime not in readers:
        raise InputError(f"unknown runtime {runtime!r}", hint=f"known runtimes: {', '.join(readers)}")
    return readers[runtime](path)


def _onnx_specs(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    import onnx

    try:
        graph = onnx.load(path, format="protobuf", load_external_data=False).graph
    except Exception as error:
        raise ModelError(f"{path} is not a readable ONNX file: {error}") from error
    constants = {tensor.name for tensor in graph.initializer}

    def spec(value: onnx.ValueInfoProto) -> TensorSpec:
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in tensor.shape.dim)
        if not all(shape):
            raise ModelError(f"{path}: {value.name!r} has no fixed shape")
        return TensorSpec(value.name, shape, onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name)

    return tuple(spec(v) for v in graph.input if v.name not in constants), tuple(map(spec, graph.output))


def _tflite_specs(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    try:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType
    except ImportError as error:
        raise InputError(
            "reading TFLite files needs ai-edge-litert, which is not installed",
            hint="pip install edge-pipeline[tflite]",
        ) from error
    try:
        # Without default delegates: nothing is run here, and they announce themselves on stderr.
        kind = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = Interpreter(str(path), experimental_op_resolver_type=kind)
    except Exception as error:
        raise ModelError(f"{path} is not a readable TFLite file: {error}") from error

    def specs(details: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(each["name"], tuple(map(int, each["shape"])), np.dtype(each["dtype"]).name)
            for each in details
        )

    return specs(interpreter.get_input_details()), specs(interpreter.get_output_details())


def _require_fit(array: NDArray[np.float32], specs: tuple[TensorSpec, ...], kind: str) -> None:
    if len(specs) != 1:
        raise InputError(f"the model has {len(specs)} {kind}s; a bundle's model has one")
    if array.shape != specs[0].shape or array.dtype.name != specs[0].dtype:
        raise InputError(
            f"the golden {kind} is {array.dtype.name}{list(array.shape)}, "
            f"the model's {kind} is {specs[0].dtype}{list(specs[0].shape)}"
        )


def _checked(content: object, folder: Path) -> Manifest:
    """Validate a manifest's content: types, plain names, and that every name is a file of the bundle."""
    try:
        manifest = _MANIFESTS.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{folder / MANIFEST}: {where}: {first['msg']}") from error
    named = (manifest.model.file, *manifest.golden.inputs, *manifest.golden.outputs)
    if MANIFEST in manifest.files:
        raise InputError(f"{folder / MANIFEST}: it names itself among its files")
    for name in named:
        if name not in manifest.files:
            raise InputError(f"{folder / MANIFEST}: {name!r} is not among its files")
    return manifest


def _verify(path: Path, entry: FileEntry) -> None:
    if path.is_symlink() or not path.is_file():
        raise InputError(f"{path} is missing from the bundle", hint="build the bundle again")
    if path.stat().st_size != entry.size or sha256(path) != entry.sha256:
        raise InputError(f"{path} is not the file that the manifest names", hint="build the bundle again")


def _bundle(folder: Path, manifest: Manifest, data: bytes) -> Bundle:
    files = (*(folder / name for name in sorted(manifest.files)), folder / MANIFEST)
    return Bundle(hashlib.sha256(data).hexdigest(), folder, manifest, files)


def _entry(path: Path) -> FileEntry:
    return FileEntry(sha256(path), path.stat().st_size)


def _write_files(
    folder: Path, model_file: Path, golden_input: NDArray[np.float32], golden_output: NDArray[np.float32]
) -> dict[str, FileEntry]:
    """Write everything but the manifest, and return the entries for it."""
    model = folder / model_file.name
    if model.name in {MANIFEST, GOLDEN_INPUT, GOLDEN_OUTPUT}:
        raise InputError(f"{model_file}: a bundle keeps this name for a file of its own", hint="rename it")
    if model.absolute() != model_file.absolute():
        write_atomically(model, partial(_copy, model_file))
    for file, array in ((GOLDEN_INPUT, golden_input), (GOLDEN_OUTPUT, golden_output)):
        write_atomically(folder / file, partial(_save, array))
    return {file: _entry(folder / file) for file in (model.name, GOLDEN_INPUT, GOLDEN_OUTPUT)}


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _save(array: NDArray[np.float32], target: Path) -> None:
    with target.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)


def _write(data: bytes, target: Path) -> None:
    target.write_bytes(data)
