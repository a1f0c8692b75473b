"""How a host wants a measurement made: the fields of a profile's `[measuring]` table, checked."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from device_agent.errors import RequestError


@dataclass(frozen=True)
class MeasuringProtocol:
    """When a measurement may stop, how often it is repeated, and how long it may take; times in seconds."""

    min_runs: int = 200
    min_duration_s: float = 2.0
    max_duration_s: float = 60.0
    warmup_max_s: float = 5.0
    max_attempts: int = 3
    cooldown_s: float = 2.0
    layer_min_runs: int = 50
    layer_max_duration_s: float = 0.5
    timeout_s: float = 600.0


def from_params(values: object) -> MeasuringProtocol:
    """Return the protocol that a request states; what it leaves out keeps its default.

    Raises:
        RequestError: `bad_request`, for a name or a value that this agent cannot follow.
    """
    if not isinstance(values, dict):
        raise RequestError("bad_request", "parameter 'protocol' is not an object")
    types = {field.name: field.type for field in fields(MeasuringProtocol)}
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise RequestError("bad_request", f"parameter 'protocol' has unknown fields: {', '.join(unknown)}")
    return MeasuringProtocol(**{name: _number(name, value, types[name]) for name, value in values.items()})


def _number(name: str, value: Any, kind: Any) -> Any:
    whole = kind == "int"
    least = 1 if whole else 0
    good = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
    if not good or not least <= value < 1e9:
        raise RequestError(
            "bad_request", f"protocol.{name} is no {'whole ' if whole else ''}number ≥ {least}"
        )
    return value
