"""What can be pushed, found by what a person calls it: a bundle's folder, a run, or a bare model file.

A bare file gets a bundle around it: one input made from a fixed seed, and the answer that this computer's own
runtime gives to it. That says whether the device computes the same, not whether the model is any good.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.bundle import MANIFEST, Bundle, TensorSpec, Tolerance, build, io_specs, read
from pipeline.data.preprocess import Preprocess
from pipeline.errors import InputError, ModelError, RunError
from pipeline.files import write_atomically
from pipeline.host_runtime import runner
from pipeline.store import Store, state_folder

RUNTIMES = {".onnx": "onnxruntime", ".tflite": "tflite"}
SEED = 20_260_101
QUANTISED_STEP = 1.0  # whole-number outputs may round to the neighbour on another processor
_UNUSUAL = re.compile(r"[^A-Za-z0-9._-]+")


def runtime_of(path: Path, runtime: str | None = None) -> str:
    """Return what runs a model's file: by its suffix, or as given.

    Raises:
        InputError: there is no such file, it is empty, or its suffix and `runtime` say different things or nothing.
    """
    if not path.is_file():
        raise InputError(
            f"{path}: no such file" if not path.exists() else f"{path} is a folder, not a model's file"
        )
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty")
    known = RUNTIMES.get(path.suffix.lower())
    if known is None and runtime is None:
        suffixes = " nor ".join(RUNTIMES)
        raise InputError(
            f"{path}: its name ends in neither {suffixes}", hint="say what runs it with --runtime"
        )
    if known and runtime and known != runtime:
        raise InputError(f"{path}: a {path.suffix} file is run by {known}, not by {runtime}")
    return str(runtime or known)


def is_model_file(what: str) -> bool:
    """Tell whether a person means a bare model file."""
    path = Path(what)
    return path.suffix.lower() in RUNTIMES or (path.is_file() and path.name != MANIFEST)


def find_bundle(what: str) -> Bundle:
    """Return the bundle in a folder, or the one that a run made ("latest" is the newest run).

    Raises:
        InputError: there is no such folder or run, or what is in it is no whole bundle.
    """
    folder = Path(what).expanduser()
    if folder.is_dir():
        inner = folder / "bundle"  # a run's folder holds its bundle beside other files
        return read(inner if not (folder / MANIFEST).exists() and inner.is_dir() else folder)
    store = Store()
    try:
        run = store.row(what).id
    except RunError as error:
        raise InputError(
            f"{what!r} is neither a folder nor a run", hint="`pipeline run list` shows the runs"
        ) from error
    made = store.run_folder(run) / "bundle"
    if not (made / MANIFEST).exists():
        raise RunError(
            f"run {run} made no bundle: it did not get so far", hint=f"pipeline deploy --resume {run}"
        )
    return read(made)


@dataclass(frozen=True)
class BareModel:
    """A bare model file, and the question and answer that devices are checked with."""

    path: Path
    name: str
    runtime: str
    threads: int
    golden_input: NDArray[Any]
    golden_output: NDArray[Any]
    tolerance: Tolerance

    def bundle(self, sequence: int) -> Bundle:
        """Build a bundle in the user's state folder; `sequence` is greater than that of every one before it."""
        folder = state_folder() / "bundles" / f"{_plain(self.name)[:60]}-{sequence}"
        copied = folder / f"{_plain(self.path.stem)[:60]}{self.path.suffix.lower()}"
        write_atomically(copied, lambda place: _copy(self.path, place))
        return build(
            folder,
            model_file=copied,
            name=self.name,
            run="",
            runtime=self.runtime,
            threads=self.threads,
            preprocess=Preprocess(),
            labels=None,
            golden_input=self.golden_input,
            golden_output=self.golden_output,
            tolerance=self.tolerance,
            sequence=sequence,
        )


def bare_model(
    path: Path, *, runtime: str, threads: int, name: str | None = None, tolerance: float | None = None
) -> BareModel:
    """Let this computer's own runtime answer a seeded input to a bare model file.

    Args:
        path: an ONNX or TFLite file with one input and one output of fixed shapes.
        runtime: what runs it.
        threads: threads to run it with on a device.
        name: what the model is called; by default as its file.
        tolerance: how far a device's answer may be from this computer's, |a − b| ≤ t + t·|b|; by default 0.001, and
            one step for whole numbers.

    Raises:
        InputError: the model has several inputs or outputs, or the runtime is not installed here.
        ModelError: the runtime refuses the file, or its answer is not finite.
    """
    if runtime == "onnxruntime":
        _require_one_file(path)
    inputs, outputs = io_specs(path, runtime)
    _require_one(path, inputs, "inputs")
    _require_one(path, outputs, "outputs")
    golden = _input(inputs[0])
    answer = _answer(path, runtime, golden)
    if not np.isfinite(answer.astype(np.float64)).all():
        raise ModelError(f"{path}: its answer to a random input is not finite", hint="is the file whole?")
    allowed = _tolerance(tolerance, answer.dtype)
    return BareModel(path, name or path.stem, runtime, threads, golden, answer, allowed)


def _plain(name: str) -> str:
    """Return a name that a bundle's file may have."""
    return _UNUSUAL.sub("_", name).lstrip(".-") or "model"


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)


def _require_one_file(path: Path) -> None:
    import onnx

    try:
        tensors = onnx.load(path, format="protobuf", load_external_data=False).graph.initializer
    except Exception as error:
        raise ModelError(f"{path} is not a readable ONNX file: {error}") from error
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
        raise ModelError(
            f"{path}: its weights are in another file, and a bundle has one file",
            hint="save it whole: onnx.save(onnx.load(FILE), OUT, save_as_external_data=False)",
        )


def _require_one(path: Path, specs: Sequence[TensorSpec], what: str) -> None:
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs) or "none"
        raise InputError(
            f"{path}: the model has {len(specs)} {what} ({names}); only one with one input and one output can be pushed"
        )


def _input(spec: TensorSpec) -> NDArray[Any]:
    """Return an input that every computer makes alike: floats around 0, bytes of all values, else whole numbers 0 or 1.

    Wider whole numbers are indices more often than not, and every table has a 0 and a 1.
    """
    dtype, random = np.dtype(spec.dtype), np.random.default_rng(SEED)
    if dtype.kind == "f":
        return random.standard_normal(spec.shape).astype(dtype)
    if dtype.itemsize == 1 and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return random.integers(limits.min, limits.max, spec.shape, dtype=dtype, endpoint=True)
    return random.integers(0, 2, spec.shape).astype(dtype)


def _tolerance(wanted: float | None, output: np.dtype[Any]) -> Tolerance:
    if wanted is not None:
        return Tolerance(rtol=wanted, atol=wanted)
    return Tolerance() if output.kind == "f" else Tolerance(rtol=0.0, atol=QUANTISED_STEP)


def _answer(path: Path, runtime: str, golden: NDArray[Any]) -> NDArray[Any]:
    run = runner(path, runtime)
    try:
        return run(golden)
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{path}: {runtime} on this computer cannot run it: {reason[:300]}") from error
