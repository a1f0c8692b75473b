"""The table of accuracies at equal latency, with what chance could explain."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from accuracy_again import shares_of_dense
from accuracy_fit import DENSE, METHODS, Fit, Fits
from accuracy_training import Terms, Trained, Trainings
from scipy.stats import t as student

OURS = "ours"
Scores = Mapping[str, Mapping[int, Trained]]  # method → seed → training


def report(folder: Path) -> str:
    """Return one Markdown section for each model, share and recipe that the bench's folder holds."""
    sections = []
    for place in sorted((folder / "fits").glob("*-*")):
        model, _, share = place.name.rpartition("-")
        fits = Fits(folder, model, int(share))
        known = {name: fit for name in (DENSE, *METHODS) if (fit := fits.read(name))}
        trained = Trainings(folder, fits.key).read()
        recipes = sorted({each.terms for each in trained}, key=lambda each: each.name)
        for terms in recipes or (None,):
            chosen = [each for each in trained if each.terms == terms]
            sections.append(_section(model, share, known, shares_of_dense(fits), terms, chosen))
    return "\n\n".join(sections) or "nothing is fitted yet"


def _section(
    model: str,
    share: str,
    fits: Mapping[str, Fit],
    again: Mapping[str, float],
    terms: Terms | None,
    trained: Sequence[Trained],
) -> str:
    dense = fits[DENSE]
    scores = {
        method: {each.seed: each for each in trained if each.method == method}
        for method in fits
        if method != DENSE
    }
    head = (
        f"### {model}, at most {share} % of the dense model's latency\n\n{dense.device}, {dense.date}: "
        f"{dense.measured_ms:.4g} ms, so at most {dense.budget_ms:.4g} ms."
    )
    rows = [_row(fits[method], dense, again.get(method), scores) for method in scores]
    return "\n".join((f"{head} {_terms(terms, trained)}\n", *_HEADER, *rows))


_COLUMNS = (
    "method",
    "measured, ms",
    "of the budget",
    "of the dense, measured again",
    "MACs",
    "parameters",
    "measurements",
    "before training, test %",
    "after, test %",
    "ours minus this",
)
_HEADER = (
    f"| {' | '.join(_COLUMNS)} |",
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
)


def _terms(terms: Terms | None, trained: Sequence[Trained]) -> str:
    if terms is None:
        return "Not trained yet."
    count = len({each.seed for each in trained})
    seeds = "1 seed" if count == 1 else f"{count} seeds"
    images = "" if terms.train_share == 1 else f" on {terms.train_share:.0%} of the images"
    precision = "bf16" if trained[0].bf16 else "fp32"
    anew = "Layers fitted anew, then t" if terms.anew else "T"
    epochs = "1 epoch" if terms.epochs == 1 else f"{terms.epochs} epochs"
    return (
        f"{anew}rained for {epochs}{images}, highest rate {terms.learning_rate:g}, {precision}, {seeds}; "
        "test accuracy of the last epoch's weights; ± is half of a 95 % t interval over the seeds."
    )


def _row(fit: Fit, dense: Fit, again: float | None, scores: Scores) -> str:
    own = scores[fit.method]
    ours = scores.get(OURS, {})
    paired = [ours[seed].after - own[seed].after for seed in own if seed in ours]
    cells = (
        fit.method,
        f"{fit.measured_ms:.4g}",
        f"{fit.measured_ms / fit.budget_ms:.1%}" + ("" if fit.within else " (missed)"),
        "-" if again is None else f"{again:.1%}",
        f"{fit.macs / dense.macs:.1%}",
        f"{fit.parameters / dense.parameters:.1%}",
        str(len(fit.tried)) + (f" + {fit.layers} layers" if fit.layers else ""),
        f"{statistics.mean(each.before for each in own.values()):.2f}" if own else "-",
        interval([each.after for each in own.values()]),
        "" if fit.method == OURS else interval(paired, signed=True),
    )
    return f"| {' | '.join(cells)} |"


def interval(values: Sequence[float], *, signed: bool = False) -> str:
    """Return the mean of `values` and half of their 95 % t interval; a single value has none, no value is "-"."""
    if not values:
        return "-"
    mean = f"{statistics.mean(values):{'+' if signed else ''}.2f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {half_width(values):.2f}"


def half_width(values: Sequence[float]) -> float:
    """Return half of the 95 % interval of a mean by Student's t, for independent values of equal spread."""
    spread = statistics.stdev(values) / math.sqrt(len(values))
    return float(student.ppf(0.975, len(values) - 1)) * spread
