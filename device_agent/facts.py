"""What kind of board this is, and which runtimes are installed on it; nothing is imported to find out."""

from __future__ import annotations

import os
import platform
import re
from importlib import metadata, util
from pathlib import Path
from typing import Any, Optional

from device_agent.sensors import PROCFS, SYSFS, energy, read_text
from device_agent.sensors.conditions import ConditionSensors
from device_agent.sensors.memory import MemorySensor

# runtime → (module, the distribution that provides it); the first one that is there is used
PROVIDERS = {
    "onnxruntime": (("onnxruntime", "onnxruntime"),),
    "tflite": (("ai_edge_litert", "ai-edge-litert"), ("tflite_runtime", "tflite-runtime")),
}


def board(root: Path = Path("/"), procfs: Path = PROCFS) -> dict[str, Any]:
    """Return model, soc, arch, cores, memory_bytes, os, python and libc of this board."""
    tree = procfs / "device-tree"
    compatible = (read_text(tree / "compatible") or "").split("\0")
    return {
        "model": read_text(tree / "model") or _cpu_field(procfs, "model name") or platform.machine(),
        "soc": compatible[-1].split(",")[-1] or _cpu_field(procfs, "Hardware"),
        "arch": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": MemorySensor(procfs).total_bytes(),
        "os": _os_name(root),
        "python": platform.python_version(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
    }


def runtimes() -> list[dict[str, str]]:
    """Return name, package and version of every runtime that this Python could load."""
    return [found for found in map(runtime, PROVIDERS) if found is not None]


def runtime(name: str) -> Optional[dict[str, str]]:
    """Return name, package and version of one runtime, or `None` when it is not installed."""
    for module, distribution in PROVIDERS.get(name, ()):
        if util.find_spec(module) is not None:
            return {"name": name, "package": distribution, "version": _version(distribution)}
    return None


def sensors(sysfs: Path = SYSFS, meter: Optional[str] = None) -> list[str]:
    """Return the names of all sensors that answer; an external meter is named, but not opened."""
    external = [f"energy:meter:{meter}"] if meter else []
    power = [f"energy:{sensor.method}" for sensor in energy.find(sysfs)]
    return [*ConditionSensors(0, sysfs).names, *external, *power]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:  # another build of it, under a name of its own
        return "unknown"


def _cpu_field(procfs: Path, key: str) -> Optional[str]:
    found = re.search(rf"^{key}\s*:\s*(.+)$", read_text(procfs / "cpuinfo") or "", re.MULTILINE)
    return found.group(1).strip() if found else None


def _os_name(root: Path) -> str:
    for place in ("etc/os-release", "usr/lib/os-release"):
        found = re.search(r'^PRETTY_NAME="?([^"\n]*)', read_text(root / place) or "", re.MULTILINE)
        if found:
            return found.group(1)
    return platform.system()
