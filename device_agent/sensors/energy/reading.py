"""What every energy sensor gives, and what it says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from time import monotonic
from typing import Optional, Protocol, runtime_checkable

SOONEST_S = 0.01  # no kernel sensor is read more often: reading has a cost of its own
USUAL_S = 0.02  # where the kernel does not say how often its value changes


@dataclass(frozen=True)
class Reading:
    """One value at one moment of the monotonic clock; either power or energy is set.

    Attributes:
        time_s: when the value held, on `time.monotonic`'s clock.
        power_mw: the present power in milliwatts.
        energy_uj: a counter of microjoules that only grows.
        wraps_at_uj: the counter's largest value, after which it begins at 0 again; `None`: it never does.
    """

    time_s: float
    power_mw: Optional[float]
    energy_uj: Optional[float]
    wraps_at_uj: Optional[float] = None


class EnergySensor(Protocol):
    """One way of seeing the board's power or energy."""

    @property
    def method(self) -> str:
        """Return how it measures ("hwmon:ina226"); what is partly modelled begins with "estimated:"."""
        ...

    @property
    def estimated(self) -> bool:
        """Say whether part of the board's power is modelled rather than seen."""
        ...

    @property
    def interval_s(self) -> float:
        """Return how often reading makes sense."""
        ...

    def read(self) -> Optional[Reading]:
        """Return the present reading, or `None` if it failed."""
        ...


@runtime_checkable
class StreamingSensor(Protocol):
    """A sensor that samples by itself and hands over all that it has since the last time."""

    def take(self) -> list[Optional[Reading]]:
        """Return the new readings in the order of their arrival; `None` for one that was unreadable."""
        ...


def power_now(power_mw: Optional[float]) -> Optional[Reading]:
    """Return a reading of power that holds now; `None` stays `None`."""
    return None if power_mw is None else Reading(monotonic(), power_mw, None)


def energy_now(energy_uj: Optional[float], wraps_at_uj: Optional[float] = None) -> Optional[Reading]:
    """Return a reading of a counter that holds now; `None` stays `None`."""
    return None if energy_uj is None else Reading(monotonic(), None, energy_uj, wraps_at_uj)
