"""A device that is a formula: latency in stairs or smooth, with parts that no table holds, wrong table entries, noise.

The search looks at it through the real `pipeline.feedback.Corrected`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from small_graphs import macs, resnet20

from pipeline.feedback import Corrected, Feedback
from pipeline.graph import DependencyGraph
from pipeline.measurement import ColdStart, Conditions, Latency, Measurement
from pipeline.profile import Limit
from pipeline.search import EMPTY, LatencyTable, LayerShape, TimedShape, candidate_widths, table_shapes
from pipeline.search.shapes import shape_at
from pipeline.search.strategies import Proposal, Seen, Start, Strategy
from pipeline.survey import Survey

QUIET = Conditions(None, None, None, None, None)
MEASURED = Measurement(
    file_sha256="0" * 64, file_bytes=0, runtime="onnxruntime", runtime_version="1", threads=1, cores=(0,), runs=200,
    duration_s=2.0, attempts=1, latency_ms=Latency(1.0, 1.2, None, None, 1.0, 0.9, 2.0), steadiness=0.002,
    cold_start=ColdStart(1, 1, 1), process_peak_bytes=30_000_000, model_peak_bytes=12_000_000, energy_mj=None,
    energy_method="unavailable", before=QUIET, after=QUIET,
)  # fmt: skip
EMPTY_MS = 0.002
GRAPH = resnet20()
WIDTHS = candidate_widths(GRAPH)


def smooth(shape: LayerShape) -> float:
    """Milliseconds that grow with the multiply-adds."""
    return 0.02 + macs(shape) / 4


def stairs(shape: LayerShape) -> float:
    """Milliseconds by whole tiles of 8 outputs and 4 inputs."""
    tiled = replace(shape, in_width=-(-shape.in_width // 4) * 4, out_width=-(-shape.out_width // 8) * 8)
    return 0.02 + macs(tiled) / 4


def slower_when_narrower(shape: LayerShape) -> float:
    """What a search must not fall for."""
    return 1.0 + 1.0 / shape.out_width


@dataclass
class SyntheticDevice:
    """Measures widths; counts how often."""

    layer_ms: Callable[[LayerShape], float] = smooth
    constant: float = 0.1  # share of the layers' sum at full width that no width changes
    factor: float = 1.0
    table_error: float = 0.0
    noise: float = 0.0
    seed: int = 0
    power_w: float | None = None
    graph: DependencyGraph = GRAPH
    surprise: float = (
        0.0  # each plan measured is by so much slower, compared with what is predicted, than the one before
    )
    calls: int = field(default=0, init=False)

    def layers_ms(self, widths: Mapping[str, int]) -> float:
        kept = {**self.graph.widths(), **widths}
        return sum(self.layer_ms(shape_at(layer, kept)) for layer in self.graph.layers)

    def exact_ms(self, widths: Mapping[str, int]) -> float:
        return EMPTY_MS + self.factor * self.layers_ms(widths) + self.constant * self.layers_ms({})

    def measure(self, widths: Mapping[str, int]) -> Seen:
        self.calls += 1
        spread = random.Random(f"{self.seed} {sorted(widths.items())}").uniform(-self.noise, self.noise)
        p50 = self.exact_ms(widths) * (1 + spread) * (1 + self.surprise) ** (self.calls - 1)
        survey = self.survey()
        return Seen(
            replace(
                MEASURED,
                latency_ms=replace(MEASURED.latency_ms, p50=p50, p90=1.2 * p50),
                steadiness=self.noise,
                file_bytes=int(survey.file_bytes(widths)) + 20_000,
                model_peak_bytes=int(survey.peak_bytes(widths)) + 300_000,
                energy_mj=None if self.power_w is None else self.power_w * p50,
            )
        )

    def survey(self) -> Survey:
        wrong = random.Random(self.seed)
        timed = tuple(
            TimedShape(
                shape,
                EMPTY_MS + self.layer_ms(shape) * (1 + wrong.uniform(-self.table_error, self.table_error)),
            )
            for shape in table_shapes(self.graph, WIDTHS)
            if shape != EMPTY
        )
        importance = {name: np.ones(choices[-1]) for name, choices in WIDTHS.items()}
        return Survey(self.graph, importance, WIDTHS, _rises(self.seed), LatencyTable(timed, EMPTY_MS))

    def outlook(self, **budgets: float) -> Corrected:
        """What a search knows after the dense model was measured; budgets are shares of what it costs."""
        dense = self.measure({}).measurement
        limits = tuple(
            Budgeted(resource).limit(share, dense)
            for resource, share in budgets.items()  # type: ignore[arg-type]
        )
        ground = self.survey()
        return Corrected(ground, limits, Feedback().learn_from(ground, {}, dense))

    def start(self, measurements: int = 12, **budgets: float) -> Start:
        return Start(self.outlook(**budgets), measurements, seed=self.seed)


@dataclass(frozen=True)
class Budgeted:
    """A resource and how much of the dense model's is allowed."""

    resource: str

    def limit(self, share: float, dense: Measurement) -> Limit:
        whole = {
            "latency": dense.latency_ms.p50,
            "file": dense.file_bytes / 1e6,
            "model_peak": (dense.model_peak_bytes or 0) / 1e6,
            "energy": dense.energy_mj or 0.0,
        }[self.resource]
        return Limit(self.resource, share * whole, "p50", f"{share:.0%}")  # type: ignore[arg-type]


def run(strategy: Strategy, device: SyntheticDevice) -> list[tuple[Proposal, Seen]]:
    """Ask, measure and tell until the strategy has nothing more to ask."""
    told: list[tuple[Proposal, Seen]] = []
    while (proposal := strategy.ask()) is not None:
        seen = device.measure(proposal.widths)
        strategy.tell(proposal, seen)
        told.append((proposal, seen))
    return told


def _rises(seed: int) -> dict[str, np.ndarray]:
    """Losses that grow ever faster, of a different height for each group."""
    pick = random.Random(seed + 1)
    raw = {
        name: pick.uniform(0.5, 2) * np.sqrt(np.array(choices) / choices[-1])
        for name, choices in WIDTHS.items()
    }
    return {name: curve[-1] - curve for name, curve in raw.items()}
