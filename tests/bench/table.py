"""What a latency table costs, and what widths at the device's own stairs are worth against evenly spaced ones.

    python tests/bench/table.py [--device local] [--profile NAME|FILE] [--runtime onnxruntime --runtime tflite]
                                [--model resnet20 --model mobilenet --model dscnn] [--seconds 10] [--show]

For each model and runtime the table is made twice with an empty cache to begin with: shapes and seconds, the first and
the second time. Then evenly spaced widths are timed, too, and, where these are not too many layers, every single width
from an eighth on; all grids are given to the exact allocator at 70, 50 and 35 % of the whole model's time by the table.
What a plan keeps is the share of the units' weight norms (l2), so that no data set is needed. Prints Markdown; `--show`
also prints each group's points and stairs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "examples")]
sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != Path(__file__).resolve().parent]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from cifar_resnet import resnet20  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from pipeline.device.client import Device  # noqa: E402
from pipeline.device.registry import find_device, open_device  # noqa: E402
from pipeline.graph import DependencyGraph, trace  # noqa: E402
from pipeline.profile import DeviceProfile, load_profile, with_overrides  # noqa: E402
from pipeline.prune import score  # noqa: E402
from pipeline.search import (  # noqa: E402
    EMPTY,
    LatencyTable,
    LayerShape,
    MilpAllocator,
    Stairs,
    build_problem,
    candidate_widths,
    searchable,
    table_shapes,
)
from pipeline.search.importance import kept_shares  # noqa: E402
from pipeline.store import Store  # noqa: E402
from pipeline.survey import Bench, make_table  # noqa: E402
from pipeline.watch import Silent  # noqa: E402
from pipeline.workshop import Workshop  # noqa: E402

BUDGETS = (0.70, 0.50, 0.35)
MOST_SHAPES = 500  # a table of every width that takes more is not made


class InvertedResidual(nn.Module):
    """1x1 up, depthwise 3x3, 1x1 down; the input is added where the shape stays."""

    def __init__(self, inside: int, outside: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inside * expansion
        self.adds = stride == 1 and inside == outside
        self.layers = nn.Sequential(
            *_conv(inside, wide, 1), *_conv(wide, wide, 3, stride, wide), *_conv(wide, outside, 1)[:2]
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


def mobilenet() -> nn.Module:
    """MobileNetV2 for 32x32 images at half its width, one repetition less a stage."""
    stages = ((8, 1, 1, 1), (12, 2, 1, 6), (16, 2, 2, 6), (32, 3, 2, 6), (48, 2, 1, 6), (80, 2, 2, 6))
    layers, width = [*_conv(3, 16, 3)], 16
    for outside, count, stride, expansion in stages:
        for number in range(count):
            layers.append(InvertedResidual(width, outside, 1 if number else stride, expansion))
            width = outside
    return nn.Sequential(
        *layers, *_conv(width, 320, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(320, 10)
    )


def dscnn() -> nn.Module:
    """The keyword spotter of MLPerf Tiny: four depthwise separable blocks of 64 channels on 49x10 features."""
    blocks = [layer for _ in range(4) for layer in (*_conv(64, 64, 3, 1, 64), *_conv(64, 64, 1))]
    first = (nn.Conv2d(1, 64, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(64), nn.ReLU())
    return nn.Sequential(*first, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 12))


def _conv(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(outside), nn.ReLU6()


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "resnet20": (resnet20, (1, 3, 32, 32)),
    "mobilenet": (mobilenet, (1, 3, 32, 32)),
    "dscnn": (dscnn, (1, 1, 49, 10)),
}


@dataclass
class Counter(Silent):
    """Takes what the table says of itself."""

    said: str = ""

    def say(self, text: str) -> None:
        self.said = text


def workshop(store: Store, profile: DeviceProfile, device: Device, watch: Counter) -> Workshop:
    """Return a workshop with a run of its own, as far as a table needs one."""
    return Workshop(store.create({}), None, profile, device, watch)  # type: ignore[arg-type]


def main() -> None:
    """Read the flags and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="local")
    parser.add_argument("--profile")
    parser.add_argument("--runtime", action="append")
    parser.add_argument("--model", action="append", choices=MODELS)
    parser.add_argument("--seconds", type=float, default=10.0, help="longest time of one allocation")
    parser.add_argument("--show", action="store_true", help="print every group's points and stairs")
    flags = parser.parse_args()
    base = load_profile(flags.profile or find_device(flags.device).profile)
    costs = [
        "| model | runtime | shapes, first | s | noise | shapes, again | s |",
        "|---|---|---|---|---|---|---|",
    ]
    worth = [
        "| model | runtime | budget | kept: stairs | even | every width | widths: stairs | even | every |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    with open_device(flags.device) as device, tempfile.TemporaryDirectory() as folder:
        for runtime in flags.runtime or ["onnxruntime", "tflite"]:
            profile = with_overrides(base, [], runtime, None)
            for name in flags.model or MODELS:
                one = One(name, Path(folder) / runtime / name, profile, device)
                costs.append(one.cost())
                worth += one.worth(flags.seconds)
                if flags.show:
                    print(f"\n{name}, {runtime}:\n" + "\n".join(show(one.stairs)), flush=True)
    print("\n" + "\n".join([*costs, "", *worth]))


class One:
    """One model on one runtime."""

    def __init__(self, name: str, folder: Path, profile: DeviceProfile, device: Device) -> None:
        build, shape = MODELS[name]
        torch.manual_seed(0)
        self.name, self.profile, self.device = name, profile, device
        self.model = build().eval()
        self.graph: DependencyGraph = searchable(trace(self.model, torch.zeros(shape)))
        self.store = Store(folder)
        self.even = candidate_widths(self.graph)
        self.every = {
            name: (*grid[: grid[0] == 0], *range(-(-grid[-1] // 8), grid[-1] + 1))
            for name, grid in self.even.items()
        }
        self.stairs: Mapping[str, Stairs] = {}

    def cost(self) -> str:
        """Make the table twice, and say what it took."""
        cells = []
        for _ in range(2):
            watch = Counter()
            begin = time.monotonic()
            self.stairs, self.widths, self.table = make_table(self._shop(watch), self.graph)
            cells.append(f"{watch.said.split()[0]} | {time.monotonic() - begin:.1f}")
        whole = self.table.predict(self.graph, {}) - self.table.empty_ms
        noise = max((each.noise_ms for each in self.stairs.values()), default=0.0)
        return f"| {self.name} | {self.profile.runtime} | {cells[0]} | {noise / whole:.2%} | {cells[1]} |"

    def worth(self, seconds: float) -> list[str]:
        """Say how much each grid keeps at each budget, by one table of all their times."""
        times: dict[LayerShape, float] = {}
        bench, grids = Bench(self._shop(Counter())), [self.widths, self.even, self.every]
        if len(table_shapes(self.graph, self.every)) > MOST_SHAPES:
            grids.pop()
        for number, grid in enumerate(grids[1:]):
            untimed = [shape for shape in (EMPTY, *table_shapes(self.graph, grid)) if shape not in times]
            times |= bench.times(f"grid {number}", untimed)[0]
        bench.close()
        own = {entry.shape: entry.p50_ms for entry in self.table.entries}
        table = LatencyTable.from_times({**times, **own, EMPTY: self.table.empty_ms})
        norms = score(self.model, self.graph, "l2")
        importance = {name: values.double().numpy() for name, values in norms.items()}
        lines = []
        for budget in BUDGETS:
            limit = budget * self.table.predict(self.graph, {})
            kept = [self._kept(table, grid, limit, importance, seconds) for grid in grids]
            sizes = [str(sum(map(len, grid.values()))) for grid in grids]
            cells = " | ".join(cell for column in (kept, sizes) for cell in (*column, "-")[:3])
            lines.append(f"| {self.name} | {self.profile.runtime} | {budget:.0%} | {cells} |")
        return lines

    def _kept(
        self,
        table: LatencyTable,
        widths: Mapping[str, tuple[int, ...]],
        limit: float,
        importance: Mapping[str, NDArray[np.float64]],
        seconds: float,
    ) -> str:
        shares = kept_shares(importance, widths)
        problem = build_problem(self.graph, table, shares, {"latency": limit}, widths)
        found = MilpAllocator(time_limit_s=seconds).allocate(problem)
        proof = "" if found.optimal else f" (gap {found.gap:.1%})"
        return f"{found.kept_importance:.2%}{proof}" if found.feasible else "not met"

    def _shop(self, watch: Counter) -> Workshop:
        return workshop(self.store, self.profile, self.device, watch)


def show(stairs: Mapping[str, Stairs]) -> list[str]:
    """Return lines that say what was found; groups that share all their points are told once."""
    lines, seen = [], set()
    for name, each in stairs.items():
        if each.points in seen:
            continue
        seen.add(each.points)
        kind = "even" if each.even else "stairs"
        lines.append(
            f"  {name}: {kind} {each.widths}, merged {each.merged}, noise {1e3 * each.noise_ms:.2f} µs"
        )
        lines.append("    " + " ".join(f"{width}:{1e3 * ms:.1f}" for width, ms in each.points))
    return lines


if __name__ == "__main__":
    main()
