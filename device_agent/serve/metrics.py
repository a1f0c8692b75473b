"""The agent's figures in Prometheus' text format (version 0.0.4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Optional

from device_agent.serve.counters import Counters

Params = Mapping[str, Any]


def render(status: Params, counters: Counters) -> str:
    """Return a status and the counts as text; what the board cannot tell is left out."""
    lines: list[str] = []
    for name, kind, what, samples in _families(status, counters):
        known = [(labels, value) for labels, value in samples if value is not None]
        if known:
            lines += [f"# HELP device_agent_{name} {what}", f"# TYPE device_agent_{name} {kind}"]
            lines += [f"device_agent_{name}{_braces(labels)} {_text(value)}" for labels, value in known]
    return "\n".join(lines) + "\n"


_Sample = tuple[Mapping[str, str], Optional[float]]
_COUNTED = {
    "requests": ("requests_total", "Requests by method.", "method"),
    "errors": ("errors_total", "Requests that failed, by the error's code.", "code"),
}


def _families(status: Params, counters: Counters) -> Iterator[tuple[str, str, str, list[_Sample]]]:
    update, conditions = status["update"], status["conditions"]
    names = {"version": status["agent_version"], "board": status["board"]["model"] or "unknown"}
    active = {"bundle": update["current"] or "none", "state": update["state"]}

    def gauge(name: str, what: str, value: Any, labels: Mapping[str, str] = names) -> Any:
        shown = {} if labels is names else labels
        return name, "gauge", what, [(shown, None if value is None else float(value))]

    yield "info", "gauge", "The agent and its board.", [(names, 1.0)]
    yield gauge("uptime_seconds", "Since the agent started.", status["uptime_s"])
    yield gauge("resident_bytes", "Memory of the agent itself.", _resident_bytes())
    yield gauge("disk_free_bytes", "Free where the state folder is.", status["disk_free_bytes"])
    yield gauge("temperature_celsius", "Of the processor.", conditions["temperature_c"])
    yield gauge("throttled", "1 while something holds the processor back.", conditions["throttled"])
    yield gauge("active_generation", "Counts activations.", update["generation"])
    yield gauge("active_info", "The active bundle and the update's state.", 1, active)
    yield gauge("highest_sequence", "The newest bundle that was activated.", update["sequence"])
    yield gauge("bad_bundles", "Bundles that are never activated again.", len(update["bad"]))
    yield gauge("lease_waiting", "Requests that wait for their turn to measure.", status["lease"]["waiting"])
    last: list[_Sample] = [
        ({"file": each["file_sha256"], "runtime": each["runtime"]}, each["p50_ms"] / 1e3)
        for each in status["last_measurements"][:1]
    ]
    yield "last_latency_seconds", "gauge", "Median of the last measurement.", last
    for key, (name, what, label) in _COUNTED.items():
        counts: list[_Sample] = [({label: of}, float(n)) for (kind, of), n in counters.items() if kind == key]
        yield name, "counter", what, counts


def _resident_bytes() -> Optional[float]:
    try:
        with open("/proc/self/statm", encoding="ascii") as stream:  # noqa: PTH123
            return float(stream.read().split()[1]) * 4096
    except (OSError, IndexError, ValueError):
        return None


def _braces(labels: Mapping[str, str]) -> str:
    def escaped(value: str) -> str:
        return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

    inside = ",".join(f'{name}="{escaped(value)}"' for name, value in labels.items())
    return f"{{{inside}}}" if inside else ""


def _text(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
