"""How a host wants a measurement made: the fields of a profile's `[measuring]` table, checked."""

from __future__ import annotations

from typing import Any, NamedTuple

from device_agent.errors import RequestError


class MeasuringProtocol(NamedTuple):
    """When a measurement may stop, how often it is repeated, what else is wanted; times in seconds.

    Attributes:
        operators: a pass of its own for the times of the operators.
        energy: windows of energy, where there is a sensor.
        energy_estimates: a sensor that models part of the power may be used.
        energy_windows: how many windows.
        energy_window_s: how long each lasts at least.
        idle_window_s: how long the idle board is watched before.
        max_temperature_c: wait until the processor is no warmer than this; 0 is no limit.
    """

    min_runs: int = 200
    min_duration_s: float = 2.0
    max_duration_s: float = 60.0
    warmup_max_s: float = 5.0
    max_attempts: int = 3
    cooldown_s: float = 2.0
    layer_min_runs: int = 50
    layer_max_duration_s: float = 0.5
    timeout_s: float = 600.0
    operators: bool = False
    energy: bool = False
    energy_estimates: bool = False
    energy_windows: int = 5
    energy_window_s: float = 10.0
    idle_window_s: float = 5.0
    max_temperature_c: float = 0.0


# kind of a field → the types that it is read from, its least value, how it is named
_KINDS: dict[str, tuple[Any, int, str]] = {
    "int": (int, 1, "whole number ≥ 1"),
    "float": ((int, float), 0, "number ≥ 0"),
}


def from_params(values: object) -> MeasuringProtocol:
    """Return the protocol that a request states; what it leaves out keeps its default.

    Raises:
        RequestError: `bad_request`, for a name or a value that this agent cannot follow.
    """
    if not isinstance(values, dict):
        raise RequestError("bad_request", "parameter 'protocol' is not an object")
    types = {name: type(default).__name__ for name, default in MeasuringProtocol._field_defaults.items()}
    unknown = sorted(set(values) - set(types))
    if unknown:
        raise RequestError("bad_request", f"parameter 'protocol' has unknown fields: {', '.join(unknown)}")
    return MeasuringProtocol(**{name: _value(name, value, types[name]) for name, value in values.items()})


def _value(name: str, value: Any, kind: str) -> Any:
    if kind == "bool":
        if not isinstance(value, bool):
            raise RequestError("bad_request", f"protocol.{name} is neither true nor false")
        return value
    types, least, what = _KINDS[kind]
    if not isinstance(value, types) or isinstance(value, bool) or not least <= value < 1e9:
        raise RequestError("bad_request", f"protocol.{name} is no {what}")
    return value
