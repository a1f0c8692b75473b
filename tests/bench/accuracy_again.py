"""The fitted models measured once more, turn by turn: what was chosen by one measurement each may have been lucky."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path

from accuracy_fit import DENSE, METHODS, Fits

from pipeline.convert import converter
from pipeline.device.client import Device
from pipeline.files import write_text
from pipeline.profile import DeviceProfile
from pipeline.watch import Watch

Round = dict[str, float]  # method → p50 in milliseconds


def measure_again(device: Device, profile: DeviceProfile, fits: Fits, rounds: int, watch: Watch) -> None:
    """Measure all fitted models `rounds` times, each round in turn; rounds that are known for all of them count."""
    suffix = converter(profile.runtime).suffix
    files = {
        name: (fits.folder / fit.weights).with_suffix(suffix)
        for name in (DENSE, *METHODS)
        if (fit := fits.read(name))
    }
    known = [each for each in _read(fits) if each.keys() == files.keys()]
    while len(known) < rounds:
        found: Round = {}
        for name, file in files.items():
            with watch.step(f"{fits.key} round {len(known) + 1}: {name}"):
                measured = device.measure(
                    file, runtime=profile.runtime, threads=profile.threads, protocol=profile.measuring
                )
            found[name] = measured.latency_ms.p50
        known.append(found)
        write_text(_file(fits), json.dumps(known, indent=2))


def shares_of_dense(fits: Fits) -> Mapping[str, float]:
    """Return each method's latency as a share of the dense model's in the same round, the median over the rounds."""
    rounds = _read(fits)
    return {
        name: statistics.median(each[name] / each[DENSE] for each in rounds)
        for name in (rounds[0] if rounds else ())
    }


def _read(fits: Fits) -> list[Round]:
    file = _file(fits)
    return json.loads(file.read_text()) if file.exists() else []


def _file(fits: Fits) -> Path:
    return fits.folder / "again" / f"{fits.key}.json"
