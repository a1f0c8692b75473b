"""For each method a smaller model whose latency, as measured on the device, is just within the budget."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from accuracy_methods import BY_RATIO, rebuild, work
from pydantic import TypeAdapter
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline.candidate import Built, Candidate, nearest
from pipeline.deploy import measure_baseline
from pipeline.errors import InputError
from pipeline.feedback import Feedback
from pipeline.files import sha256, write_text
from pipeline.fit import fit
from pipeline.graph import trace
from pipeline.method import AS_USUAL
from pipeline.profile import Limit
from pipeline.prune import SlimmingPlan
from pipeline.search import MilpAllocator
from pipeline.survey import TABLE_STEP, Study, study, survey
from pipeline.task import Task
from pipeline.workshop import Workshop

DENSE = "dense"
MOST = 12  # measurements that a search may make, beside the whole model's
BY_STRATEGY = {
    "ours": (AS_USUAL.strategy, 1, AS_USUAL.rounds),
    "netadapt": ("netadapt", 101, MOST),
}  # name, first round, rounds
METHODS = ("ours", *BY_RATIO, "netadapt")
ENOUGH = 0.97  # of the budget: what lands nearer is not worth another measurement
Tried = tuple[tuple[float | None, float], ...]


@dataclass(frozen=True)
class Fit:
    """What one method came to: a model, measured on the device.

    `within` is false where no model that it made was within the budget; this is the nearest then. `tried` holds what
    led there, each (pruning ratio or None, ms), `layers` counts the layers that were timed alone for it. `weights` and
    `plans` are files in the bench's folder; without plans the sizes of layers are those of the weights.
    """

    method: str
    device: str
    date: str
    budget_ms: float
    measured_ms: float
    within: bool
    macs: int
    parameters: int
    tried: Tried
    why: str
    weights: str
    plans: tuple[str, ...]
    layers: int = 0


class Fits:
    """The fits of one model at one share (percent) of its dense latency, kept in the bench's folder."""

    def __init__(self, folder: Path, model: str, share: int) -> None:
        self.folder = folder
        self.key = f"{model}-{share}"
        self._place = folder / "fits" / self.key

    def read(self, method: str) -> Fit | None:
        """Return what a method came to, if it is known."""
        file = self._place / f"{method}.json"
        return TypeAdapter(Fit).validate_json(file.read_text()) if file.exists() else None

    def write(self, fit: Fit) -> None:
        """Keep what a method came to."""
        write_text(self._place / f"{fit.method}.json", json.dumps(asdict(fit), indent=2))

    def build(self, fit: Fit, task: Task) -> nn.Module:
        """Return the model of a fit, in eval mode."""
        plans = [(self.folder / plan).read_text() for plan in fit.plans]
        return rebuild(task, plans, load_file(self.folder / fit.weights))

    def plan(self, fit: Fit, task: Task) -> SlimmingPlan:
        """Return what was taken from the dense model.

        A model without a plan was cut by another library, which leaves what stays as it is: units are told by that.
        """
        if fit.plans:
            return SlimmingPlan.from_json((self.folder / fit.plans[-1]).read_text())
        dense, left = task.build_model(), load_file(self.folder / fit.weights)
        graph = trace(dense, torch.zeros(1, *task.input_shape))
        keep = {}
        for group in graph.groups:
            name = f"{group.name}.weight"
            if name in left and len(left[name]) < group.width:
                rows = dense.state_dict()[name].flatten(1)
                keep[group.name] = _same_rows(rows, left[name].flatten(1))
        return graph.plan(keep)


def _same_rows(rows: Tensor, some: Tensor) -> list[int]:
    """Return which of `rows` (a, k) are those of `some` (b, k); these may have lost columns, in other layers only."""
    found = [int((rows == row).all(1).nonzero()[0]) for row in some]
    if sorted(set(found)) != found:
        raise InputError(f"rows {found} are no choice of units in their order")
    return found


@dataclass(frozen=True)
class Found:
    """How a search ended, and why: its model, the model's latency in milliseconds, all that was measured for it."""

    built: Built
    ms: float
    tried: Tried
    why: str = ""
    layers: int = 0


def fit_methods(shop: Workshop, fits: Fits, methods: Sequence[str], share: int, device: str) -> None:
    """Fit the whole model and each of `methods`, unless that was done; `device` says on what, for people."""
    shop.settle_host()
    baseline = measure_baseline(shop)
    dense_ms = baseline.measurement.latency_ms.p50
    limit = Limit("latency", share / 100 * dense_ms, "p50", f"{share}%")
    known = study(shop, baseline.built)
    searches: dict[str, Callable[[], Found]] = {
        DENSE: lambda: Found(baseline.built, dense_ms, ((None, dense_ms),)),
        **{
            name: partial(_by_strategy, shop, baseline, known, limit, name, 1000 * share)
            for name in BY_STRATEGY
        },
        **{name: partial(_by_ratio, shop, baseline, known, limit, name) for name in BY_RATIO},
    }
    for method in (DENSE, *methods):
        if fits.read(method) is None:
            _keep(shop, fits, method, searches[method](), limit, device)


def _keep(shop: Workshop, fits: Fits, method: str, found: Found, limit: Limit, device: str) -> None:
    folder, built = shop.run.folder.relative_to(fits.folder), found.built
    plans = [shop.path(plan).read_text() for plan in built.plans]
    model = rebuild(shop.task, plans, load_file(shop.path(built.weights)))
    macs, parameters = work(model, shop.example())
    fits.write(
        Fit(
            method=method,
            device=device,
            date=time.strftime("%Y-%m-%d", time.gmtime()),
            budget_ms=limit.value,
            measured_ms=found.ms,
            within=found.ms <= limit.value,
            macs=macs,
            parameters=parameters,
            tried=found.tried,
            layers=found.layers,
            why=found.why,
            weights=str(folder / built.weights),
            plans=tuple(str(folder / plan) for plan in built.plans),
        )
    )
    shop.watch.say(f"{method}: {found.ms:.4g} ms, {100 * found.ms / limit.value:.1f} % of the budget")


def _by_strategy(
    shop: Workshop, baseline: Candidate, known: Study, limit: Limit, method: str, number: int
) -> Found:
    """Search for widths by one of our strategies; "ours" is what a deploy does before it trains.

    The rounds are numbered from `number` on, since the searches for all shares of a model are in one run.
    """
    strategy, first, rounds = BY_STRATEGY[method]
    ground = survey(shop, known, baseline.built)
    fitted = fit(
        shop,
        baseline,
        ground,
        (limit,),
        Feedback().learn(ground, baseline),
        MilpAllocator(),
        first=number + first,
        rounds=rounds,
        strategy=strategy,
    )
    best = fitted.best or nearest((*fitted.candidates, baseline), (limit,))
    tried = tuple((None, each.measurement.latency_ms.p50) for each in fitted.candidates)
    return Found(best.built, best.measurement.latency_ms.p50, tried, fitted.why, _layers_timed(shop))


def _layers_timed(shop: Workshop) -> int:
    """Return how often the device timed a layer alone."""
    steps = shop.run.store.steps(shop.run.id)
    batches = (json.loads(step.value) for step in steps if step.name.startswith(TABLE_STEP))
    return sum(len(batch["timings"]) for batch in batches)


@dataclass(frozen=True)
class Trial:
    """The model that a pruning ratio led to, and its measured latency in milliseconds."""

    ratio: float
    built: Built
    ms: float


def _by_ratio(shop: Workshop, baseline: Candidate, known: Study, limit: Limit, method: str) -> Found:
    cut = BY_RATIO[method](shop, baseline.built, known.graph)
    measured: dict[str, Trial] = {}

    def attempt(ratio: float) -> Trial:
        name = f"{method} {ratio:.6f}"
        built = shop.step(f"{name}: cut and convert", Built, lambda _: shop.convert(cut(ratio), name))
        digest = sha256(shop.path(built.model))
        if digest not in measured:  # a neighbouring ratio may have led to the same model
            ms = shop.measure(f"{name}: measure", built).latency_ms.p50
            measured[digest] = Trial(ratio, built, ms)
        return measured[digest]

    best, why = bisect(attempt, limit.value)
    tried = tuple((trial.ratio, trial.ms) for trial in measured.values())
    return Found(best.built, best.ms, tried, why)


def bisect(attempt: Callable[[float], Trial], budget_ms: float) -> tuple[Trial, str]:
    """Return the trial of the smallest pruning ratio that fits, and why the search ended; if none fits, the fastest.

    At most `MOST` halvings, so at most that many measurements; they can tell ratios apart that differ by less than one
    unit of these networks.
    """
    slow, fits = 0.0, 1.0
    trials: list[Trial] = []
    for _ in range(MOST):
        ratio = (slow + fits) / 2
        trial = attempt(ratio)
        trials.append(trial)
        if trial.ms > budget_ms:
            slow = ratio
            continue
        fits = ratio
        if trial.ms >= ENOUGH * budget_ms:
            return trial, f"{trial.ms / budget_ms:.1%} of the budget are used"
    fitting = [trial for trial in trials if trial.ms <= budget_ms]
    if not fitting:
        return min(trials, key=lambda trial: trial.ms), "no ratio leads into the budget"
    return fitting[-1], f"ratios {slow:.4f} and {fits:.4f} lie on both sides of the budget"
