"""All searches side by side, on devices that are formulas: what each keeps within a budget, for how many measurements.

    python tests/bench/strategies.py [--devices 10] [--measurements 12]

ResNet-20's groups on `tests/search/synthetic_device.py`: smooth or in stairs, table entries up to 5 % wrong, up to
20 % of the latency that no table holds, noise of 0.2 %; latency budgets between 40 % and 80 %. "Kept" is the share of
the importance that the best plan within the budget keeps, relative to ours. Prints a Markdown table: median (worst).
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "search"))

from synthetic_device import SyntheticDevice, run, smooth, stairs

from pipeline.search.strategies import DEFAULT, STRATEGIES


def main() -> None:
    """Run all searches on all devices and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--devices", type=int, default=10)
    parser.add_argument("--measurements", type=int, default=12)
    options = parser.parse_args()
    found = {
        name: [_search(name, seed, options.measurements) for seed in range(options.devices)]
        for name in STRATEGIES
    }
    print("| search | ends within the budget | measurements | budget used, % | kept, of ours | asking, s |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, ends in found.items():
        fitted = [
            (used, kept / ours[2])
            for (_, used, kept, _), ours in zip(ends, found[DEFAULT], strict=True)
            if used
        ]
        cells = (
            f"{len(fitted)} of {len(ends)}",
            f"{statistics.median(end[0] for end in ends):g} ({max(end[0] for end in ends)})",
            _middle([100 * used for used, _ in fitted], 1),
            _middle([kept for _, kept in fitted], 3),
            f"{statistics.median(end[3] for end in ends):.2f}",
        )
        print(f"| {name} | " + " | ".join(cells) + " |")


def _search(name: str, seed: int, measurements: int) -> tuple[int, float, float, float]:
    """Return measurements, share of the budget used, importance kept (both 0 if nothing fits), seconds."""
    pick = random.Random(seed)
    layers = smooth if seed % 2 else stairs
    device = SyntheticDevice(layers, pick.uniform(0, 0.2), pick.uniform(0.9, 1.1), 0.05, 0.002, seed)
    start = device.start(measurements, latency=max(pick.uniform(0.4, 0.8), 0.4 + device.constant))
    before = time.perf_counter()
    told = run(STRATEGIES[name](start), device)
    seconds = time.perf_counter() - before
    fitting = [
        (proposal.kept_importance, seen.fullest(start.outlook.limits))
        for proposal, seen in told
        if seen.fits(start.outlook.limits)
    ]
    kept, used = max(fitting, default=(0.0, 0.0))
    return len(told), used, kept, seconds


def _middle(values: list[float], digits: int) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f})" if values else "-"


if __name__ == "__main__":
    main()
