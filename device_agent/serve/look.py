"""The status for people, and without a daemon."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from device_agent import __version__, facts, wire
from device_agent.sensors.conditions import ConditionSensors
from device_agent.updates.store import free_bytes
from device_agent.updates.update import read_status


def at(state: Path) -> dict[str, Any]:
    """Return what can be said of a state folder and this board without an agent; changes nothing.

    Raises:
        OSError: the folder is not there or may not be read.
    """
    free = free_bytes(state)
    sensors = ConditionSensors()
    return {
        "agent_version": __version__,
        "protocol": wire.PROTOCOL,
        "board": facts.board(),
        "runtimes": facts.runtimes(),
        "sensors": facts.sensors(),
        "conditions": sensors.read(),
        "disk_free_bytes": free,
        "update": read_status(state)._asdict(),
    }


def as_text(status: Mapping[str, Any]) -> str:
    """Return a status as a few lines for people."""
    board, conditions, update = status["board"], status["conditions"], status["update"]
    memory = f"{board['memory_bytes'] / 1e6:.0f} MB" if board["memory_bytes"] else "unknown"
    rows = [
        ("agent", f"{status['agent_version']}, protocol {status['protocol']}"),
        ("board", f"{board['model']} ({board['soc'] or board['arch']}), {board['cores']} cores, {memory}"),
        ("system", f"{board['os']}, Python {board['python']}, {board['libc']}"),
        ("runtimes", ", ".join(f"{r['package']} {r['version']}" for r in status["runtimes"]) or "none"),
        ("sensors", ", ".join(status["sensors"]) or "none"),
        ("now", _conditions(conditions)),
        ("disk", f"{status['disk_free_bytes'] / 1e6:.0f} MB free"),
        ("model", _model(update)),
        *((("last", update["last"]),) if update["last"] else ()),
        *((("FAULT", update["fault"]),) if update["fault"] else ()),
        *(("bad", f"{bundle[:12]}: {why}") for bundle, why in update["bad"].items()),
        *(("measured", _measured(each)) for each in status.get("last_measurements", [])),
    ]
    if lease := status.get("lease", {}).get("holder"):
        rows.append(("lease", f"{lease}, {status['lease']['waiting']} waiting"))
    return "\n".join(f"{name:10} {text}" for name, text in rows)


def _conditions(found: Mapping[str, Any]) -> str:
    parts = [
        (found["temperature_c"], "{:.1f} °C"),
        (found["frequency_mhz"], "{:.0f} MHz"),
        (found["governor"], "governor {}"),
        (found["load_1min"], "load {:.2f}"),
    ]
    known = [text.format(value) for value, text in parts if value is not None]
    return ", ".join([*known, *(["THROTTLED"] if found["throttled"] else [])]) or "unknown"


def _model(update: Mapping[str, Any]) -> str:
    if update["current"] is None:
        return f"none ({update['state']})"
    waits = ", waits for the application's confirmation" if update["waits_for_confirmation"] else ""
    before = f", before it {update['previous'][:12]}" if update["previous"] else ""
    return f"{update['current'][:12]}, generation {update['generation']} ({update['state']}{waits}){before}"


def _measured(each: Mapping[str, Any]) -> str:
    flags = f" [{', '.join(each['flags'])}]" if each["flags"] else ""
    return f"{each['file_sha256'][:12]} {each['runtime']}: {each['p50_ms']:.3f} ms{flags}"
