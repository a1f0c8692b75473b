"""What storing weights as float16 costs and saves: file, answers, latency and memory, pair by pair on a device.

    PIPELINE_DATA=/folder/with/cifar-10-batches-bin:/folder/with/the/weights
    python tests/bench/half_storage.py [--device local] [--models resnet20 mobilenet_v2] [--runtimes onnxruntime tflite]
                                       [--pairs 7] [--samples 500] [--layers 24]

For each model the file as converted and the same with its weights as float16 are compared on this computer with what
PyTorch computes in float32, and measured on the device in pairs, which of the two comes first changing from pair to
pair; the ratio is half / float. Then layers of ResNet-20 are timed alone, both ways in one batch. ResNet-20 and -56
have trained weights and real images; the digits network is trained here for some seconds; the others have random
weights and see noise. "off by more" is the share of samples with an answer that differs from PyTorch's by more than a
bundle's tolerance for golden outputs. Prints Markdown.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from loop_models import ds_cnn, mobilenet_v2, resnet8
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from pipeline.bundle import Tolerance
from pipeline.convert import converter, store_half
from pipeline.convert.validate import compare
from pipeline.data.preprocess import apply
from pipeline.device.client import DeviceClient
from pipeline.device.registry import find_device, open_device
from pipeline.graph import trace
from pipeline.host_runtime import runner
from pipeline.measurement import Measurement
from pipeline.profile import load_profile
from pipeline.search import build_layer_model, candidate_widths, table_shapes
from pipeline.task import load_task

Floats = NDArray[np.float32]
NAMES = {"digits": "digits.toml", "resnet20": "cifar10_resnet20.toml", "resnet56": "cifar10_resnet56.toml"}
UNTRAINED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet8": (resnet8, (3, 32, 32)),
    "mobilenet_v2": (mobilenet_v2, (3, 32, 32)),
    "ds_cnn": (ds_cnn, (1, 49, 10)),
}
HEAD = (
    "| model | runtime | file, kB | as float16 | dB | as float16 | largest error, of the largest output | other class "
    "| off by more | p50, ms | half / float: median (range) | peak, MB | as float16 |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True)
class Files:
    """A model's file as converted, and the same with its weights as float16."""

    plain: Path
    half: Path


def main() -> None:
    """Compare and measure every model, then single layers; print two tables."""
    options = _options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, open_device(options.device) as device:
        print(f"{device.status().board.model}\n\n{HEAD}")
        for name in options.models:
            model, samples = _model(name, options.samples)
            for runtime in options.runtimes:
                files = _files(model, samples[:1], Path(folder) / name, runtime)
                print(
                    f"| {name} | {runtime} | {_answers(files, runtime, model, samples)} "
                    f"| {_measured(files, runtime, device, options)} |",
                    flush=True,
                )
        print(
            "\n| layers of ResNet-20 alone | ratio of their sum | of each: median (range) |\n|---|---:|---:|"
        )
        for runtime in options.runtimes:
            print(f"| {runtime} | {_layers(Path(folder), runtime, device, options)} |", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [*NAMES, *UNTRAINED]
    parser.add_argument("--device", default="local")
    parser.add_argument("--models", nargs="+", default=names, choices=names)
    parser.add_argument("--runtimes", nargs="+", default=["onnxruntime", "tflite"])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--samples", type=int, default=500, help="whose answers are compared")
    parser.add_argument("--layers", type=int, default=24, help="to time alone")
    return parser.parse_args()


def _model(name: str, count: int) -> tuple[nn.Module, Tensor]:
    """Return a model in eval mode and preprocessed inputs for it."""
    if name in NAMES:
        task = load_task(NAMES[name])
        model, splits = task.build_model(), task.load_data()
        if task.weights is None:
            _train(model, apply(task.preprocess, splits.train.inputs), splits.train.targets)
        return model.eval(), apply(task.preprocess, splits.test.inputs[:count])
    torch.manual_seed(0)
    factory, shape = UNTRAINED[name]
    model = factory().train()
    with torch.no_grad():
        for _ in range(20):
            model(torch.randn(64, *shape))  # for the statistics of its batch norms
    return model.eval(), torch.randn(count, *shape)


def _train(model: nn.Module, inputs: Tensor, targets: Tensor) -> None:
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(model.train().parameters(), 1e-3)
    for _ in range(15):
        for chosen in torch.split(torch.randperm(len(targets)), 64):
            optimiser.zero_grad()
            functional.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()
            optimiser.step()


def _files(model: nn.Module, example: Tensor, stem: Path, runtime: str) -> Files:
    maker = converter(runtime)
    files = Files(stem.with_suffix(maker.suffix), stem.with_name(f"{stem.name}_half{maker.suffix}"))
    maker.convert(model, example, files.plain)
    shutil.copyfile(files.plain, files.half)
    store_half(files.half, runtime)
    return files


def _answers(files: Files, runtime: str, model: nn.Module, samples: Tensor) -> str:
    with torch.no_grad():
        wanted = model(samples).numpy()
    found = [_run(path, runtime, samples) for path in (files.plain, files.half)]
    plain, half = (compare(wanted, answers) for answers in found)
    sizes = [path.stat().st_size / 1e3 for path in (files.plain, files.half)]
    cells = (
        f"{sizes[0]:.1f}",
        f"{sizes[1]:.1f} ({100 * sizes[1] / sizes[0]:.1f} %)",
        f"{plain.sqnr_db:.1f}",
        f"{half.sqnr_db:.1f}",
        f"{half.max_abs_error:.2g}, {100 * half.max_rel_error:.3f} %",
        f"{round((1 - (half.same_class or 0)) * half.samples)} of {half.samples}",
        f"{100 * _off(found[1], wanted):.0f} %",
    )
    return " | ".join(cells)


def _off(answers: Floats, wanted: Floats) -> float:
    """Return the share of samples that a board would refuse if PyTorch's answer were the golden one."""
    tolerance = Tolerance()
    return float(1 - np.isclose(answers, wanted, tolerance.rtol, tolerance.atol).all(axis=1).mean())


def _run(path: Path, runtime: str, samples: Tensor) -> Floats:
    run = runner(path, runtime)
    return np.concatenate([run(sample[None].numpy()) for sample in samples])


def _measured(files: Files, runtime: str, device: DeviceClient, options: argparse.Namespace) -> str:
    protocol = replace(load_profile(find_device(options.device).profile).measuring, max_attempts=1)
    pairs: list[tuple[Measurement, Measurement]] = []
    for number in range(options.pairs):
        order = (files.plain, files.half) if number % 2 == 0 else (files.half, files.plain)
        found = {path: device.measure(path, runtime=runtime, threads=1, protocol=protocol) for path in order}
        pairs.append((found[files.plain], found[files.half]))
    ratios = [half.latency_ms.p50 / plain.latency_ms.p50 for plain, half in pairs]
    peaks = [
        statistics.median((each.model_peak_bytes or 0) / 1e6 for each in column)
        for column in zip(*pairs, strict=True)
    ]
    return (
        f"{statistics.median(plain.latency_ms.p50 for plain, _ in pairs):.4f} | {_spread(ratios)} "
        f"| {peaks[0]:.2f} | {peaks[1]:.2f}"
    )


def _layers(folder: Path, runtime: str, device: DeviceClient, options: argparse.Namespace) -> str:
    """Time layers of ResNet-20 with weights that are large enough to be stored otherwise, both ways in one batch."""
    plain = list(_built(folder / "plain", runtime, options.layers))
    half = list(_built(folder / "half", runtime, options.layers))
    for path in half:
        store_half(path, runtime)
    protocol = load_profile(find_device(options.device).profile).measuring
    together = [path for pair in zip(plain, half, strict=True) for path in pair]
    times = [
        each.p50_ms for each in device.measure_layers(together, runtime=runtime, threads=1, protocol=protocol)
    ]
    ratios = [after / before for before, after in zip(times[::2], times[1::2], strict=True)]
    return f"{sum(times[1::2]) / sum(times[::2]):.4f} | {_spread(ratios)}"


def _built(folder: Path, runtime: str, count: int) -> Iterator[Path]:
    folder.mkdir(exist_ok=True)
    graph = trace(load_task(NAMES["resnet20"]).build_model(), torch.zeros(1, 3, 32, 32))
    shapes = [
        each for each in table_shapes(graph, candidate_widths(graph)) if each.kind in {"conv2d", "linear"}
    ]
    for shape in shapes[:: max(1, len(shapes) // count)][:count]:
        path = folder / f"{shape.key.replace(' ', '_')}{converter(runtime).suffix}"
        build_layer_model(shape, runtime, path)
        yield path


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.4f} ({min(ratios):.3f} to {max(ratios):.3f})"


if __name__ == "__main__":
    main()
