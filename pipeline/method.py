"""How a deploy goes about shrinking: by which search, with how many measurements, in how many cuts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipeline.errors import InputError
from pipeline.measurement import Measurement
from pipeline.profile import Limit, reached
from pipeline.search.strategies import DEFAULT, STRATEGIES
from pipeline.toml_files import closest, show

ROUNDS = 3


@dataclass(frozen=True)
class Method:
    """The search's name, its measurements of whole models a cut at most, and the number of cuts.

    With several cuts the model recovers between them (Han et al. 2015, "Learning both Weights and Connections",
    section 3.4: iterative pruning).
    """

    strategy: str = DEFAULT
    rounds: int = ROUNDS
    cuts: int = 1


AS_USUAL = Method()


def make_method(strategy: str | None, rounds: int | None, cuts: int | None) -> Method:
    """Return the method that flags describe; what is None is as usual.

    Raises:
        InputError: there is no such strategy.
    """
    name = DEFAULT if strategy is None else strategy
    if name not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise InputError(
            f"no search is called {show(name)}", hint=f"{closest(name, STRATEGIES)}known: {known}"
        )
    return Method(name, rounds or AS_USUAL.rounds, cuts or AS_USUAL.cuts)


def targets(limits: Sequence[Limit], measured: Measurement, cuts_left: int) -> tuple[Limit, ...]:
    """Return the limits of the next cut: each of those left takes the same share off what is measured now.

    Args:
        limits: those of the last cut.
        measured: the model that is cut.
        cuts_left: this one included; with 1 the limits themselves are returned.
    """
    return tuple(_target(limit, measured, cuts_left) for limit in limits)


def _target(limit: Limit, measured: Measurement, cuts_left: int) -> Limit:
    now = reached(limit.resource, measured, limit.percentile)
    if now is None or now <= limit.value or cuts_left == 1:
        return limit
    return replace(limit, value=now * (limit.value / now) ** (1 / cuts_left))


def epochs_of_cut(epochs: int, number: int, cuts: int) -> int:
    """Return the epochs of recovery after cut `number`: half of all go to the last one, the others share the rest.

    Where there are any, each cut has one at least.
    """
    if epochs == 0:
        return 0
    early = max(1, epochs // (2 * (cuts - 1))) if cuts > 1 else 0
    return early if number < cuts else max(1, epochs - early * (cuts - 1))
